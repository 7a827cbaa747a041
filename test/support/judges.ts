import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

// Other makers of images, each with a store of its own below a directory, to judge what we write and to
// make what we read.

export type Tool = (...args: readonly string[]) => string

/** Runs a program to its end; gives its standard output, fails with all it said. */
export function runTool(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): string {
  const options = { encoding: 'utf8', timeout: 120_000, env: { ...process.env, ...env } } as const
  const { status, stdout, stderr, error } = spawnSync(program, args, options)
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed:\n${stdout}${stderr}`)
  return stdout
}

/** podman or buildah; `unmountBelow(directory)` undoes what they leave mounted. */
export function containersTool(program: 'podman' | 'buildah', directory: string): Tool {
  const roots = ['--root', join(directory, 'containers'), '--runroot', join(directory, 'containers-run')]
  const store = [...roots, '--storage-driver=overlay']
  // What podman mounts is looked at from outside.
  if (program === 'podman') {
    const networks = ['--network-config-dir', join(directory, 'networks')]
    return (...args) => runTool(program, [...store, ...networks, ...args])
  }
  return (...args) => {
    const [command = '', ...rest] = withOwnEtc(directory, [program, ...store, ...args])
    return runTool(command, rest)
  }
}

/** The command in a mount namespace where what is written to /etc is lost: they leave keys and locks there. */
export function withOwnEtc(directory: string, command: readonly string[]): readonly string[] {
  mkdirSync(directory, { recursive: true })
  const scratch = mkdtempSync(join(directory, 'etc-'))
  const script = `mount -t tmpfs tmpfs "$0" && mkdir "$0/upper" "$0/work" &&
    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/upper,workdir=$0/work" /etc && exec "$@"`
  return ['unshare', '--mount', '--propagation=private', 'sh', '-ec', script, scratch, ...command]
}

export const skopeo: Tool = (...args) => runTool('skopeo', ['--insecure-policy', ...args])
export const umoci: Tool = (...args) => runTool('umoci', args)

export interface OwnDocker extends AsyncDisposable {
  readonly docker: Tool
  /** Path of its socket. */
  readonly socket: string
}

/** A dockerd with its own directories, socket and cgroups, without any network of its own. */
export async function startDocker(): Promise<OwnDocker> {
  // A socket path has room for little more than 100 bytes.
  const home = mkdtempSync(join(tmpdir(), 'dkr-'))
  const cgroup = `isula-judge-${process.pid}`
  const places = ['--data-root', `${home}/data`, '--exec-root', `${home}/exec`, '--pidfile', `${home}/pid`]
  const network = ['--bridge=none', '--iptables=false', '--ip6tables=false']
  const rest = ['--storage-driver=overlay2', '--cgroup-parent', `/${cgroup}`, '-H', `unix://${home}/sock`]
  const [command = '', ...args] = withOwnEtc(home, ['dockerd', ...places, ...network, ...rest])
  const daemon = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let log = ''
  daemon.stderr.setEncoding('utf8').on('data', (text: string) => {
    log = `${log}${text}`.slice(-20_000)
  })
  const ended = new Promise<void>((resolve) => {
    daemon.once('close', () => resolve())
    daemon.once('error', () => resolve())
  })
  const env = { DOCKER_HOST: `unix://${home}/sock`, DOCKER_CONFIG: `${home}/client`, DOCKER_BUILDKIT: '0' }
  const stop = async (): Promise<void> => {
    daemon.kill('SIGTERM')
    await ended
    unmountBelow(home)
    removeCgroups(cgroup)
    rmSync(home, { recursive: true, force: true })
  }
  for (
    let tries = 0;
    spawnSync('docker', ['version'], { env: { ...process.env, ...env } }).status !== 0;
    tries++
  ) {
    if (tries < 200 && daemon.exitCode === null && daemon.pid !== undefined) await sleep(100)
    else {
      await stop()
      throw new Error(`dockerd did not start:\n${log}`)
    }
  }
  const docker: Tool = (...args) => runTool('docker', args, env)
  return { docker, socket: `${home}/sock`, [Symbol.asyncDispose]: stop }
}

/** dockerd leaves the network namespace of `--network=host` mounted, podman its store. */
export function unmountBelow(directory: string): void {
  const places = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((place) => place.startsWith(`${directory}/`))
  for (const place of places.sort().reverse()) runTool('umount', [place])
}

function removeCgroups(name: string): void {
  for (const controller of ['', ...readdirSync('/sys/fs/cgroup')]) {
    const path = join('/sys/fs/cgroup', controller, name)
    if (existsSync(path)) rmdirSync(path)
  }
}
