import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createBuilderService } from '../../packages/builder-daemon/src/rpc/builder-service.js'
import { createFakeCore, type FakeCore } from '../../packages/builder-daemon/src/rpc/fake-core.js'
import { createRpcServer } from '../../packages/builder-daemon/src/rpc/server.js'
import { silentLogger } from './silent-logger.js'

const program = fileURLToPath(new URL('../../bin/isula-build', import.meta.url))

export interface Finished {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Running {
  readonly pid: number
  /** Everything on standard output so far. */
  stdout(): string
  write(text: string): void
  /** Ends its input. */
  end(): void
  readonly finished: Promise<Finished>
}

interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly input?: string
}

/** The client as a user calls it, and a daemon of which only the edge is real. */
export interface EdgeBench extends AsyncDisposable {
  readonly core: FakeCore
  /** Home of the user, and where its commands run. */
  readonly work: string
  run(args: readonly string[], options?: RunOptions): Promise<Finished>
  /** The same; its input stays open. */
  start(args: readonly string[], options?: RunOptions): Running
  /** Commands for sh on a terminal of their own, `client` among them; what is typed is echoed as a terminal does. */
  terminal(commands: string): Running
}

export async function createEdgeBench(): Promise<EdgeBench> {
  const work = mkdtempSync(join(tmpdir(), 'isula-edge-'))
  const home = join(work, 'home')
  mkdirSync(home)
  const socketPath = join(work, 'socket')
  const core = createFakeCore()
  const server = await createRpcServer({
    socketPath,
    group: undefined,
    services: [createBuilderService(core)],
    log: silentLogger,
  })
  const { NODE_OPTIONS: _, VITEST: __, REGISTRY_AUTH_FILE: ___, ...inherited } = process.env
  const environment = {
    ...inherited,
    HOME: home,
    XDG_RUNTIME_DIR: home,
    ISULABUILD_HOST: `unix://${socketPath}`,
  }

  const launch = (
    command: string,
    args: readonly string[],
    env: Readonly<Record<string, string>>,
  ): Running => {
    const child = spawn(command, args, { cwd: home, env: { ...environment, ...env }, stdio: 'pipe' })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    // A program that is done reads nothing any more.
    child.stdin.on('error', () => undefined)
    const late = setTimeout(() => child.kill('SIGKILL'), 60_000)
    return {
      pid: child.pid ?? 0,
      stdout: () => stdout,
      write: (text) => child.stdin.write(text),
      end: () => child.stdin.end(),
      finished: new Promise((resolve, reject) => {
        child.once('error', reject)
        child.once('close', (status) => {
          clearTimeout(late)
          child.stdin.destroy()
          resolve({ status, stdout, stderr })
        })
      }),
    }
  }

  return {
    core,
    work: home,
    start: (args, { env = {} } = {}) => launch(program, args, env),
    terminal: (commands) =>
      launch('script', ['-qec', `client() { '${program}' "$@"; }\n${commands}`, '/dev/null'], {
        ...{ SHELL: '/bin/sh', TERM: 'xterm' },
      }),
    async run(args, { env = {}, input = '' } = {}) {
      const running = launch(program, args, env)
      running.write(input)
      running.end()
      return await running.finished
    },
    async [Symbol.asyncDispose]() {
      await server.close(0)
      rmSync(work, { recursive: true, force: true })
    },
  }
}

/** Resolves when `text` has come. */
export async function until(running: Running, text: string): Promise<void> {
  const deadline = Date.now() + 20_000
  while (!running.stdout().includes(text)) {
    if (Date.now() > deadline)
      throw new Error(`no ${JSON.stringify(text)} in ${JSON.stringify(running.stdout())}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
