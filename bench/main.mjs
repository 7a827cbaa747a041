// npm run bench: how long the things take that users wait for, here and in other builders on this machine.
//
//   npm run bench -- [--workload tiny,tree,...] [--peers project,buildkit,docker,buildah,original] [--runs 3]
//                    [--durability verified|strict] [--directory DIR] [--json FILE] [--scale PART=SIZE,...]
//
// Peers take turns, run by run, on a file system of their own (a loop image in DIR, by default below the directory for
// temporary files), in a mount namespace of their own. Nothing of the machine's own builders is used or changed.
import { spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { forTests, setUp } from '../scripts/lib/setup.mjs'
import { floors } from './floor.mjs'
import { measures } from './measures.mjs'
import { importBases, openPeers } from './peers.mjs'
import { scaleOf } from './scale.mjs'
import { growthTables, table } from './table.mjs'
import { piece } from './workloads.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const inside = 'ISULA_BENCH_INSIDE'

/** How things grow takes longer than all of these, and is asked for by name: `--workload scale`. */
const usual = Object.keys(measures).filter((name) => name !== 'scale')

const { values } = parseArgs({
  options: {
    workload: { type: 'string', default: usual.join(',') },
    peers: { type: 'string', default: 'project,buildkit,docker,buildah,original' },
    runs: { type: 'string', default: '3' },
    durability: { type: 'string', default: 'verified' },
    directory: { type: 'string', default: join(tmpdir(), 'isula-bench') },
    json: { type: 'string' },
    scale: { type: 'string', multiple: true, default: [] },
  },
})

function must(command, ...args) {
  const result = spawnSync(command, args, { encoding: 'utf8' })
  if (result.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${result.stderr}`)
  return result.stdout.trim()
}

/** Ext4 without a journal, as some machines have it, makes files slowly for minutes after many were removed. */
function ownFileSystem(directory) {
  const image = join(directory, 'volume.ext4')
  const volume = join(directory, 'volume')
  mkdirSync(volume, { recursive: true })
  if (!existsSync(image)) {
    must('truncate', '-s', '48G', `${image}.new`)
    must(
      'mkfs.ext4',
      '-q',
      '-F',
      '-i',
      '8192',
      '-E',
      'lazy_itable_init=0,lazy_journal_init=0',
      `${image}.new`,
    )
    must('mv', `${image}.new`, image)
  }
  must('mount', '-o', 'loop,noatime', image, volume)
  return volume
}

async function main() {
  if (process.env[inside] === undefined) {
    await setUp(forTests)
    const again = ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)]
    const { status } = spawnSync('unshare', again, {
      stdio: 'inherit',
      env: { ...process.env, [inside]: '1' },
    })
    process.exitCode = status ?? 1
    return
  }
  must('mount', '-t', 'tmpfs', 'tmpfs', '/run')
  const volume = ownFileSystem(values.directory)
  if (process.env.ISULA_ORIGINAL !== undefined) {
    const over = join(volume, 'etc')
    for (const name of ['upper', 'work']) mkdirSync(join(over, name), { recursive: true })
    must(
      'mount',
      '-t',
      'overlay',
      'overlay',
      '-o',
      `lowerdir=/etc,upperdir=${over}/upper,workdir=${over}/work`,
      '/etc',
    )
  }
  const state = mkdtempSync(join(volume, 'state-'))
  const run = '/run/isula-build-bench'
  mkdirSync(run)
  const peers = openPeers(values.peers.split(','), { root, state, run, durability: values.durability })
  const results = []
  const note = (entry) => {
    results.push(entry)
    console.error(
      `[bench] ${entry.workload} ${entry.peer} ${entry.seconds.toFixed(3)} s${entry.note ? ` (${entry.note})` : ''}`,
    )
    if (values.json !== undefined) appendFileSync(values.json, `${JSON.stringify(entry)}\n`)
  }
  const daemons = [...new Set(peers.map(({ daemon }) => daemon).filter(Boolean))]
  try {
    const workloads = values.workload.split(',')
    const bases = workloads.every((name) => name === 'scale') ? ['busybox'] : ['busybox', 'debian']
    const tars = bases.map((name) => [name, join(piece(volume, name), `${name}.tar`)])
    const started = new Set()
    for (const peer of peers) {
      if (peer.daemon !== undefined && !started.has(peer.env.DOCKER_HOST ?? peer.name))
        await peer.daemon.start()
      if (!started.has(peer.env.DOCKER_HOST ?? peer.name)) importBases(peer, tars)
      started.add(peer.env.DOCKER_HOST ?? peer.name)
    }
    for (const workload of workloads) {
      const measure = measures[workload]
      if (measure === undefined)
        throw new Error(`no workload ${workload}; there are ${Object.keys(measures).join(', ')}`)
      for (const floor of floors[workload]?.({ volume, piece: (name) => piece(volume, name) }) ?? [])
        note(floor)
      await measure({
        peers,
        volume,
        run,
        runs: Number(values.runs),
        sizes: scaleOf(values.scale),
        piece: (name) => piece(volume, name),
        note,
      })
    }
  } finally {
    for (const daemon of daemons) await daemon.stop()
    rmSync(state, { recursive: true, force: true })
  }
  const tables = [...growthTables(results)]
  if (results.some(({ growth }) => growth === undefined))
    tables.unshift(table(results, { runs: Number(values.runs), durability: values.durability }))
  console.log(tables.join('\n\n'))
}

await main()
