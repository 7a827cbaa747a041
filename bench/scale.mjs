// What an image, a layer, a file or a byte costs as there are more of them. Each part at several sizes, by
// `--scale PART=SIZE,SIZE` (several times): images, layers, chain (layers of one image), files, gib (one file, GiB).
// Trees of files are kept for the next time. 20 GiB take 41 GiB of disk while they are copied.
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { cleanUp, memory } from './peers.mjs'
import { busybox } from './workloads.mjs'

export const scaleSizes = {
  images: [100, 1000, 10_000],
  layers: [20, 200, 2000],
  chain: [20, 60, 126],
  files: [10_000, 100_000, 1_000_000],
  gib: [0.2, 2, 20],
}

const units = {
  images: 'images',
  layers: 'layers',
  chain: 'layers of one image',
  files: 'files',
  gib: 'GiB, one file',
}

const mib = (pid, key) => `${memory(pid, key).toFixed(0)} MiB`

/** Notes what was measured of `part` at `size`; `more` goes with the seconds. */
const sayer =
  ({ peer, note }, part, size) =>
  (what, seconds, more) =>
    note({
      ...{ workload: `${what} (${size} ${units[part]})`, peer: peer.name, seconds, note: more },
      growth: { part: units[part], what, size },
    })

/** Seconds, of the fastest of a few: what stays when nothing disturbs it. */
function best(peer, command, times = 3) {
  const [program, ...args] = command
  const seconds = Array.from({ length: times }, () => {
    const began = performance.now()
    const result = spawnSync(program, args, { env: peer.env, encoding: 'utf8', maxBuffer: 64 << 20 })
    if (result.status !== 0) throw new Error(`${command.join(' ')}: ${result.stderr}`)
    return (performance.now() - began) / 1000
  })
  return Math.min(...seconds)
}

function context(root, name, dockerfile, files = {}) {
  const directory = join(root, name)
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, 'Dockerfile'), dockerfile)
  for (const [file, content] of Object.entries(files)) writeFileSync(join(directory, file), content)
  return directory
}

/** A daemon that has just started, so that its memory is that of this size. */
async function restarted(peer) {
  await peer.daemon.stop()
  return await peer.daemon.start()
}

/** What every user waits for, whatever else the store holds. */
async function everyday({ peer, root }, say) {
  const tiny = context(root, 'tiny', `FROM ${busybox}\nRUN echo hello > /hello\nCOPY file /file\n`, {
    file: 'x',
  })
  const tag = 'scale-tiny:latest'
  say('start', await restarted(peer), mib(peer.daemon.pid, 'VmRSS'))
  say('version', best(peer, peer.version()))
  say('images', best(peer, peer.images(), 5))
  say('tiny build', best(peer, peer.build(tiny, tag)))
  say('tiny build, cached', best(peer, peer.build(tiny, tag, { cache: true })))
  say('tag', best(peer, peer.tag(tag, 'scale-other:latest')), mib(peer.daemon.pid, 'VmHWM'))
}

/** Images `from` to `to`, which share one layer, as an archive. */
function archive(root, from, to) {
  const stage = join(root, 'archive')
  const put = (content) => {
    const digest = createHash('sha256').update(content).digest('hex')
    return { digest, write: (suffix) => writeFileSync(join(stage, `${digest}${suffix}`), content) }
  }
  rmSync(stage, { recursive: true, force: true })
  mkdirSync(stage, { recursive: true })
  writeFileSync(join(stage, 'shared'), 'of all\n')
  const tar = ['--owner=0', '--group=0', '--mtime=@0']
  const layer = put(execFileSync('tar', ['-C', stage, ...tar, '-cf', '-', 'shared']))
  layer.write('.tar')
  const manifest = []
  for (let i = from; i < to; i++) {
    const config = put(
      JSON.stringify({
        ...{ architecture: { x64: 'amd64', arm64: 'arm64' }[process.arch] ?? process.arch, os: 'linux' },
        config: { Labels: { n: String(i) } },
        rootfs: { type: 'layers', diff_ids: [`sha256:${layer.digest}`] },
        history: [{ created_by: 'shared' }],
      }),
    )
    config.write('.json')
    const Layers = [`${layer.digest}.tar`]
    manifest.push({ Config: `${config.digest}.json`, RepoTags: [`localhost/scale-${i}:latest`], Layers })
  }
  writeFileSync(join(stage, 'manifest.json'), JSON.stringify(manifest))
  const file = join(root, 'archive.tar')
  execFileSync('tar', ['-C', stage, '-cf', file, '.'])
  return file
}

const parts = {
  async images(run, sizes) {
    const { peer, root } = run
    let held = 0
    for (const size of sizes) {
      const say = sayer(run, 'images', size)
      let seconds = 0
      const before = held
      for (; held < size; held = Math.min(size, held + 1000)) {
        const file = archive(root, held, Math.min(size, held + 1000))
        seconds = best(peer, peer.load(file), 1)
      }
      const last = Math.min(size - before, 1000)
      say('load, each', seconds / last)
      await everyday(run, say)
    }
  },

  async layers(run, sizes) {
    const { peer, root } = run
    const most = 100
    let held = 0
    for (const size of sizes) {
      const say = sayer(run, 'layers', size)
      let each = 0
      while (held < size) {
        const count = Math.min(most, size - held)
        const lines = Array.from({ length: count }, (_, i) => `COPY <<EOF /f\nlayer ${held + i}\nEOF\n`)
        const directory = context(root, 'layers', `FROM ${busybox}\n${lines.join('')}`)
        each = best(peer, peer.build(directory, `scale-layers-${held}:latest`), 1) / count
        held += count
      }
      say('one more layer', each)
      await everyday(run, say)
    }
  },

  async chain(of, sizes) {
    const { peer, root, note } = of
    for (const size of sizes) {
      const say = sayer(of, 'chain', size)
      // One is the base's.
      const lines = Array.from({ length: size - 2 }, (_, i) => `COPY <<EOF /f${i}\n${i}\nEOF\n`)
      const tag = `scale-chain-${size}:latest`
      const deep = context(root, 'deep', `FROM ${busybox}\n${lines.join('')}`)
      const made = best(peer, peer.build(deep, tag), 1)
      say('build', made, `${((made / lines.length) * 1000).toFixed(1)} ms for each layer`)
      const copy = context(root, 'copy', `FROM ${tag}\nCOPY Dockerfile /\n`)
      say('COPY on top', best(peer, peer.build(copy, 'scale-top:latest')))
      const run = context(root, 'run', `FROM ${tag}\nRUN cat /f* > /sum\n`)
      say('RUN on top', best(peer, peer.build(run, 'scale-top:latest')))
      const file = join(root, 'chain.tar')
      rmSync(file, { force: true })
      say('save', best(peer, peer.save('scale-top:latest', file), 1))
    }
    const longest = sizes.at(-1)
    const extra = Array.from({ length: 129 - longest }, (_, i) => `COPY <<EOF /more${i}\n${i}\nEOF\n`)
    const over = context(root, 'over', `FROM scale-chain-${longest}:latest\n${extra.join('')}`)
    const [program, ...args] = peer.build(over, 'scale-over:latest')
    const { status, stderr } = spawnSync(program, args, { env: peer.env, encoding: 'utf8' })
    const text = status === 0 ? 'no error' : stderr.trim().split('\n')[0]
    note({
      workload: `error at ${longest + extra.length - 1} layers`,
      peer: peer.name,
      seconds: 0,
      note: text,
    })
  },

  async files(of, sizes) {
    const { peer, root } = of
    for (const size of sizes) {
      const directory = join(root, `files-${size}`)
      if (!existsSync(`${directory}.made`)) {
        context(root, `files-${size}`, `FROM ${busybox}\nCOPY tree /app\n`)
        for (let i = 0; i < size; i++) {
          const below = join(directory, 'tree', `d${Math.floor(i / 1000)}`)
          if (i % 1000 === 0) mkdirSync(below, { recursive: true })
          writeFileSync(join(below, `f${i}`), `file ${i} of a tree with many of them\n`)
        }
        writeFileSync(`${directory}.made`, '')
      }
      const tag = 'scale-files:latest'
      const noted = sayer(of, 'files', size)
      const say = (what, seconds) =>
        noted(what, seconds, `${((seconds / size) * 1e6).toFixed(1)} us, ${mib(peer.daemon.pid, 'VmHWM')}`)
      await restarted(peer)
      spawnSync('sync')
      say('COPY', best(peer, peer.build(directory, tag), 1))
      // The next one remembers what it saw, the one after it relies on that.
      best(peer, peer.build(directory, tag, { cache: true }), 1)
      say('COPY, cached', best(peer, peer.build(directory, tag, { cache: true })))
      writeFileSync(join(directory, 'tree/d0/f0'), `changed ${Date.now()}\n`)
      say('COPY, one file changed', best(peer, peer.build(directory, tag, { cache: true }), 1))
      cleanUp(peer, [tag])
    }
  },

  async gib(of, sizes) {
    const { peer, root } = of
    const block = Buffer.alloc(4 << 20)
    for (let i = 0; i < block.length; i += 4) block.writeUInt32LE(Math.imul(i, 2_654_435_761) >>> 0, i)
    for (const size of sizes) {
      const directory = context(root, 'gib', `FROM ${busybox}\nCOPY data small /\n`, { small: 'x' })
      const fd = openSync(join(directory, 'data'), 'w')
      for (let i = 0; i < size * 256; i++) {
        block.writeUInt32LE(i, 0)
        writeSync(fd, block)
      }
      closeSync(fd)
      const tag = 'scale-gib:latest'
      const noted = sayer(of, 'gib', size)
      const say = (what, seconds) =>
        noted(what, seconds, `${(size / seconds).toFixed(2)} GiB/s, ${mib(peer.daemon.pid, 'VmHWM')}`)
      await restarted(peer)
      spawnSync('sync')
      say('COPY', best(peer, peer.build(directory, tag), 1))
      best(peer, peer.build(directory, tag, { cache: true }), 1)
      say('COPY, cached', best(peer, peer.build(directory, tag, { cache: true })))
      writeFileSync(join(directory, 'small'), `changed ${Date.now()}\n`)
      say('COPY, another file changed', best(peer, peer.build(directory, tag, { cache: true }), 1))
      cleanUp(peer, [tag])
      rmSync(directory, { recursive: true })
    }
  },
}

/** Sizes of `--scale` flags; all of all parts when there are none. */
export function scaleOf(flags) {
  if (flags.length === 0) return scaleSizes
  return Object.fromEntries(
    flags.map((flag) => {
      const [part, sizes] = flag.split('=')
      if (parts[part] === undefined)
        throw new Error(`no part ${part}; there are ${Object.keys(parts).join(', ')}`)
      return [part, sizes === undefined ? scaleSizes[part] : sizes.split(',').map(Number)]
    }),
  )
}

/** Peers with a daemon only: the others hold nothing between two commands. */
export async function scale({ peers, volume, note, sizes }) {
  for (const peer of peers.filter(({ daemon }) => daemon !== undefined)) {
    for (const [part, wanted] of Object.entries(sizes)) {
      const root = join(volume, 'data', 'scale')
      mkdirSync(root, { recursive: true })
      await parts[part]({ peer, root, note }, wanted)
    }
  }
}
