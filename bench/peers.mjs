// The builders that can be compared, as command lines of one shape. None of them touches the state of the machine's own.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { busybox, debian } from './workloads.mjs'

const environment = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^(NODE_|DOCKER_|BUILDKIT_|BUILDAH_|CONTAINERS_|ISULA)|_proxy$/i.test(name),
  ),
)

/** Debian's own client goes with its daemon; a newer one elsewhere builds only with a plug-in. */
function dockerClient() {
  const files = spawnSync('dpkg', ['-L', 'docker.io'], { encoding: 'utf8' }).stdout ?? ''
  return files.split('\n').find((file) => file.endsWith('/bin/docker')) ?? 'docker'
}

const installed = (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0

function check(command, env) {
  const [program, ...args] = command
  const result = spawnSync(program, args, { env, encoding: 'utf8', maxBuffer: 64 << 20 })
  if (result.status !== 0)
    throw new Error(`${command.join(' ')}: ${result.error?.message ?? result.stderr + result.stdout}`)
  return result.stdout
}

/** Resolves when somebody listens at the socket. */
async function listening(socket, child) {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`the daemon of ${socket} ended with ${child.exitCode}`)
    const open = await new Promise((resolve) => {
      const probe = connect(socket, () => resolve(true))
      probe.once('error', () => resolve(false))
      probe.once('connect', () => probe.destroy())
    })
    if (open) return
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** A daemon below `state`; `command` gets its own state directory. */
function daemonOf(command, socket, env) {
  let child
  return {
    get pid() {
      return child?.pid
    },
    async start() {
      const [program, ...args] = command
      const began = performance.now()
      child = spawn(program, args, { env, stdio: ['ignore', 'ignore', 'ignore'] })
      await listening(socket, child)
      return (performance.now() - began) / 1000
    },
    async stop() {
      if (child === undefined || child.exitCode !== null) return
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await ended
    },
  }
}

function isula(name, { state, run, client, daemon, cached, socket = join(run, `${name}.sock`) }) {
  const env = environment
  const ctr = (...args) => [...client(socket), 'ctr-img', ...args]
  return {
    ...{ name, env, cached },
    daemon: daemonOf(daemon({ state: join(state, name), run: join(run, name), socket }), socket, env),
    build: (context, tag, options = {}) => {
      const flags = cached && !options.cache ? ['--no-cache'] : []
      return ctr('build', ...flags, '-f', join(context, 'Dockerfile'), '-t', tag, context)
    },
    import: (file, tag) => ctr('import', file, tag),
    images: () => ctr('images'),
    version: () => [...client(socket), 'version'],
    save: (tag, file) => ctr('save', '-o', file, tag),
    load: (file) => ctr('load', '-i', file),
    tag: (from, to) => ctr('tag', from, to),
    push: (tag) => ctr('push', tag),
    pull: (tag) => ctr('pull', tag),
    remove: (tags) => ctr('rm', ...tags),
    prune: () => [ctr('rm', '--prune')],
  }
}

function docker(name, kit, { state, run }) {
  const client = dockerClient()
  const socket = join(run, 'docker.sock')
  const config = join(run, 'docker-config')
  mkdirSync(config, { recursive: true })
  const env = {
    ...environment,
    DOCKER_HOST: `unix://${socket}`,
    DOCKER_BUILDKIT: kit,
    DOCKER_CONFIG: config,
    BUILDKIT_PROGRESS: 'plain',
  }
  const flags = [
    ...['--bridge=none', '--iptables=false', '--ip-forward=false', '--storage-driver', 'overlay2'],
    ...['--log-level', 'error'],
  ]
  const places = [
    '--data-root',
    join(state, 'docker'),
    '--exec-root',
    join(run, 'docker'),
    '--pidfile',
    join(run, 'docker.pid'),
  ]
  return {
    ...{ name, env, cached: true },
    daemon: daemonOf(['dockerd', ...places, '-H', `unix://${socket}`, ...flags], socket, environment),
    build: (context, tag, options = {}) => {
      const cold = options.cache ? [] : ['--no-cache']
      return [
        client,
        'build',
        '--network',
        'host',
        ...cold,
        '-t',
        tag,
        '-f',
        join(context, 'Dockerfile'),
        context,
      ]
    },
    import: (file, tag) => [client, 'import', file, tag],
    images: () => [client, 'images'],
    version: () => [client, 'version'],
    save: (tag, file) => [client, 'save', '-o', file, tag],
    load: (file) => [client, 'load', '-i', file],
    tag: (from, to) => [client, 'tag', from, to],
    push: (tag) => [client, 'push', tag],
    pull: (tag) => [client, 'pull', tag],
    remove: (tags) => [client, 'rmi', '-f', ...tags],
    prune: () => [
      [client, 'image', 'prune', '-f'],
      [client, 'builder', 'prune', '-af'],
    ],
  }
}

function buildah({ state, run }) {
  const stores = [
    '--root',
    join(state, 'containers'),
    '--runroot',
    join(run, 'containers'),
    '--storage-driver',
    'overlay',
  ]
  const call = (...args) => ['buildah', ...stores, ...args]
  return {
    ...{ name: 'buildah', env: environment, cached: false, daemon: undefined },
    build: (context, tag) =>
      call(
        'bud',
        '--runtime',
        'runc',
        '--network',
        'host',
        '--pull-never',
        '-t',
        tag,
        '-f',
        join(context, 'Dockerfile'),
        context,
      ),
    import: (file, tag) => ['podman', ...stores, '--cgroup-manager', 'cgroupfs', 'import', file, tag],
    images: () => call('images'),
    version: () => call('version'),
    save: (tag, file) => call('push', tag, `docker-archive:${file}:${tag}`),
    load: (file) => ['podman', ...stores, 'load', '-i', file],
    tag: (from, to) => call('tag', from, to),
    push: (tag) => call('push', '--tls-verify=false', tag, `docker://${tag}`),
    pull: (tag) => call('pull', '--tls-verify=false', `docker://${tag}`),
    remove: (tags) => call('rmi', '-f', ...tags),
    prune: () => [call('rmi', '--prune', '-f')],
  }
}

/** Everything of `names` that is installed; the original is found by `ISULA_ORIGINAL`, a directory with its two programs. */
export function openPeers(names, { root, state, run, durability }) {
  const config = join(run, 'config')
  // The original reads no other directory; what lies there is covered in this mount namespace only.
  const etc = '/etc/isula-build'
  const files = {
    'configuration.toml': `durability = "${durability}"\n`,
    'registries.toml': '[registries.insecure]\nregistries = ["127.0.0.1:5000"]\n',
    'policy.json': '{"default":[{"type":"insecureAcceptAnything"}]}\n',
  }
  const original = process.env.ISULA_ORIGINAL
  for (const directory of original === undefined ? [config] : [config, etc]) {
    mkdirSync(directory, { recursive: true })
    for (const [name, content] of Object.entries(files))
      writeFileSync(join(directory, name), content, { mode: 0o600 })
  }
  if (original !== undefined) {
    writeFileSync(join(etc, 'configuration.toml'), 'debug = false\ngroup = "root"\nruntime = ""\n', {
      mode: 0o600,
    })
    writeFileSync(join(etc, 'storage.toml'), '[storage]\ndriver = "overlay"\n', { mode: 0o600 })
  }
  const known = {
    project: () =>
      isula('project', {
        ...{ state, run, cached: true },
        client: (socket) => [join(root, 'bin/isula-build'), '--host', `unix://${socket}`],
        daemon: (at) => [
          join(root, 'bin/isula-builder'),
          ...['--dataroot', at.state, '--runroot', at.run, '--host', `unix://${at.socket}`],
          ...['--config-dir', config, '--group', 'root', '--log-level', 'error'],
        ],
      }),
    original: () =>
      original === undefined
        ? undefined
        : isula('original', {
            ...{ state, run, cached: false, socket: '/run/isula_build.sock' },
            client: () => [join(original, 'isula-build')],
            daemon: (at) => [
              join(original, 'isula-builder'),
              '--dataroot',
              at.state,
              '--runroot',
              at.run,
              '--group',
              'root',
            ],
          }),
    docker: () => (installed('dockerd') ? docker('docker', '0', { state, run }) : undefined),
    buildkit: () => (installed('dockerd') ? docker('buildkit', '1', { state, run }) : undefined),
    buildah: () => (installed('buildah') && installed('podman') ? buildah({ state, run }) : undefined),
  }
  return names.flatMap((name) => {
    const made = known[name]?.()
    if (made === undefined) console.error(`[bench] ${name} is not here`)
    return made === undefined ? [] : [made]
  })
}

/** `archives`: what the workloads call a base, and the tar of its root file system. */
export function importBases(peer, archives) {
  const tags = { busybox, debian }
  for (const [name, tar] of archives) check(peer.import(tar, tags[name]), peer.env)
}

/** Takes the images away, and everything only they needed. */
export function cleanUp(peer, tags) {
  for (const command of [peer.remove(tags), ...peer.prune()]) {
    const [program, ...args] = command
    spawnSync(program, args, { env: peer.env, stdio: 'ignore' })
  }
}

export { check }

/** MiB that a process and all it started have had in memory at most, or have now. */
export function memory(pid, key) {
  const children = spawnSync('sh', ['-c', `cat /proc/${pid}/task/*/children`], { encoding: 'utf8' }).stdout
  const own =
    Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024
  return children
    .split(' ')
    .filter(Boolean)
    .reduce((sum, child) => {
      try {
        return sum + memory(Number(child), key)
      } catch {
        return sum // it has ended
      }
    }, own)
}
