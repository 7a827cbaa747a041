// A daemon of its own in temporary directories, with its own socket and the default configuration.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, cpSync, existsSync, mkdtempSync, openSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root } from './setup.mjs'

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Cheaper than a client: a start is not slowed down by being watched. */
function accepts(socket) {
  return new Promise((resolve) => {
    const probe = connect(socket)
    const settle = (answer) => {
      probe.destroy()
      resolve(answer)
    }
    probe.once('connect', () => settle(true))
    probe.once('error', () => settle(false))
  })
}

/**
 * Starts `isula-builder`; everything it writes is below `directory` (made when not given).
 * `kill(signal)` ends it without cleaning up, `start()` starts it again, `stop()` ends and removes all.
 */
export async function startDaemon(options = {}) {
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'isula-'))
  const config = join(directory, 'etc')
  if (!existsSync(config)) cpSync(join(root, 'etc'), config, { recursive: true })
  const socket = join(directory, 'isula_build.sock')
  const host = `unix://${socket}`
  const log = join(directory, 'daemon.log')
  const args = [
    ...['--dataroot', join(directory, 'data'), '--runroot', join(directory, 'run')],
    ...['--config-dir', config, '--host', host, '--group', options.group ?? 'root', ...(options.args ?? [])],
  ]
  const env = { ...process.env, ...options.env }
  delete env.NODE_OPTIONS
  delete env.VITEST
  const daemon = {
    directory,
    socket,
    host,
    log,
    data: join(directory, 'data'),
    run: join(directory, 'run'),
    child: undefined,
  }

  daemon.start = async () => {
    const out = openSync(log, 'a')
    const [command, ...rest] = [...(options.through ?? []), join(root, 'bin/isula-builder'), ...args]
    const child = spawn(command, rest, { env, stdio: ['ignore', out, out] })
    closeSync(out)
    daemon.child = child
    daemon.exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })))
    const deadline = Date.now() + 30_000
    while (!(await accepts(socket)) || daemon.client(['version'], { timeout: 10_000 }).status !== 0) {
      if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
        throw new Error(`the daemon did not start:\n${readFileSync(log, 'utf8')}`)
      }
      await sleep(10)
    }
  }
  /** Runs `isula-build` with these arguments to its end. */
  daemon.client = (clientArgs, more = {}) =>
    spawnSync(join(root, 'bin/isula-build'), clientArgs, {
      encoding: 'utf8',
      maxBuffer: 1 << 30,
      ...more,
      env: { ...env, ISULABUILD_HOST: host, ...more.env },
    })
  daemon.image = (clientArgs, more) => daemon.client(['ctr-img', ...clientArgs], more)
  daemon.kill = async (signal = 'SIGTERM') => {
    daemon.child?.kill(signal)
    return await daemon.exited
  }
  daemon.stop = async () => {
    await daemon.kill('SIGTERM')
    // Node.js runs out of stack in trees as deep as a layer may be.
    execFileSync('rm', ['-rf', '--', directory])
  }
  if (options.start !== false) await daemon.start()
  return daemon
}
