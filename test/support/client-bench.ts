import { type SpawnSyncOptions, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { connect } from '../../packages/client/src/connect.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { makeBusyboxTar } from './busybox-rootfs.js'

export interface ClientResult {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** A daemon with a base image `base:1`, and its client as a user calls it. */
export interface ClientBench extends AsyncDisposable {
  readonly daemon: TestDaemon
  /** For files of the test. */
  readonly work: string
  readonly baseTar: string
  /** Runs `ctr-img ARGS` to its end. */
  run(args: readonly string[], options?: SpawnSyncOptions): ClientResult
  /** The same, expected to succeed; gives its standard output. */
  ok(args: readonly string[], options?: SpawnSyncOptions): string
  /** A new directory with these files. */
  context(files: Readonly<Record<string, string>>): string
  /** Content of a file of an image, through a build that prints it. */
  file(image: string, path: string): string
  /** Forgets all that no name leads to, caches included. */
  prune(): Promise<void>
}

export async function createClientBench(): Promise<ClientBench> {
  const work = mkdtempSync(join(tmpdir(), 'isula-client-'))
  let daemon: TestDaemon | undefined
  try {
    const baseTar = makeBusyboxTar(work)
    daemon = await startDaemon({ directory: join(work, 'daemon') })
    const bench = benchOf(daemon, work, baseTar)
    bench.ok(['import', baseTar, 'base:1'])
    return bench
  } catch (error) {
    await daemon?.kill()
    rmSync(work, { recursive: true, force: true })
    throw error
  }
}

function benchOf(daemon: TestDaemon, work: string, baseTar: string): ClientBench {
  let contexts = 0
  const bench: ClientBench = {
    daemon,
    work,
    baseTar,
    run(args, options) {
      const { status, stdout, stderr } = daemon.image(args, { cwd: work, timeout: 60_000, ...options })
      return { status, stdout, stderr }
    },
    ok(args, options) {
      const { status, stdout, stderr } = bench.run(args, options)
      if (status === 0) return stdout
      throw new Error(`ctr-img ${args.join(' ')}: exit code ${status}\n${stdout}${stderr}`)
    },
    context(files) {
      const directory = join(work, `context-${contexts++}`)
      mkdirSync(directory)
      for (const [name, content] of Object.entries(files)) {
        mkdirSync(dirname(join(directory, name)), { recursive: true })
        writeFileSync(join(directory, name), content)
      }
      return directory
    },
    file(image, path) {
      const dockerfile = `FROM base:1\nRUN --mount=from=${image},target=/image cat /image${path}\n`
      const output = bench.ok(['build', '--no-cache', '-f', '-', '.'], { input: dockerfile })
      const [, rest = ''] = output.split(/^STEP {2}2: .*\n/m)
      return rest.split('Committed stage 0')[0] ?? ''
    },
    async prune() {
      const connection = await connect(daemon.host, '10s')
      try {
        for await (const _ of connection.stream(builderService.Prune, { all: true }));
      } finally {
        connection.close()
      }
    },
    async [Symbol.asyncDispose]() {
      await daemon.kill()
      rmSync(work, { recursive: true, force: true })
    },
  }
  return bench
}

/** Runs a program that has to succeed; gives its standard output. */
export function tool(program: string, args: readonly string[], options: SpawnSyncOptions = {}): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', ...options })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${status}\n${stderr}`)
  return String(stdout)
}

export interface ArchivedConfig {
  readonly created: string
  readonly config: Readonly<Record<string, unknown>>
  readonly history: readonly { readonly created: string; readonly empty_layer?: boolean }[]
  readonly rootfs: { readonly diff_ids: readonly string[] }
}

/** The documents of a docker archive. */
export function readDockerArchive(path: string): {
  readonly manifest: readonly {
    readonly Config: string
    readonly RepoTags: readonly string[] | null
    readonly Layers: readonly string[]
  }[]
  readonly config: (index?: number) => ArchivedConfig
} {
  const member = (name: string) => JSON.parse(tool('tar', ['-xOf', path, name]))
  const manifest = member('manifest.json')
  return { manifest, config: (index = 0) => member(manifest[index].Config) }
}
