// What is measured: each workload with all peers in turn, run by run. Seconds are those of the whole command.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { check, cleanUp, memory } from './peers.mjs'
import { scale } from './scale.mjs'

const registry = '127.0.0.1:5000'

function timed(peer, command) {
  const [program, ...args] = command
  spawnSync('sync')
  const began = performance.now()
  const result = spawnSync(program, args, {
    env: peer.env,
    stdio: ['ignore', 'ignore', 'pipe'],
    maxBuffer: 64 << 20,
  })
  const seconds = (performance.now() - began) / 1000
  if (result.status !== 0) throw new Error(`${command.join(' ')}: ${result.stderr}`)
  return seconds
}

const cold =
  (workload) =>
  async ({ peers, runs, piece, note }) => {
    const tag = `bench-${workload}:latest`
    for (let run = 0; run < runs; run++) {
      for (const peer of peers) {
        cleanUp(peer, [tag])
        note({ workload, peer: peer.name, seconds: timed(peer, peer.build(piece(workload), tag)) })
      }
    }
    for (const peer of peers) cleanUp(peer, [tag])
  }

/** Built once, then again: as it is, and for `change` with one file changed each time. */
const again =
  (context, name, change) =>
  async ({ peers, runs, piece, note }) => {
    for (const peer of peers.filter(({ cached }) => cached)) {
      const tag = `bench-again-${peer.name}:latest`
      check(peer.build(piece(context), tag, { cache: true }), peer.env)
      for (let run = 0; run < runs; run++) {
        change?.(piece(context), `${peer.name} ${run} ${Date.now()}\n`)
        note({
          workload: name,
          peer: peer.name,
          seconds: timed(peer, peer.build(piece(context), tag, { cache: true })),
        })
      }
      cleanUp(peer, [tag])
    }
  }

/** A hundred clients at once; the note tells when the first was done, and the memory of the daemon at its peak. */
async function hundred({ peers, runs, piece, note }) {
  const tags = Array.from({ length: 100 }, (_, i) => `bench-hundred-${i}:latest`)
  for (let run = 0; run < runs; run++) {
    for (const peer of peers) {
      cleanUp(peer, tags)
      spawnSync('sync')
      const began = performance.now()
      const done = await Promise.all(
        tags.map(async (tag, i) => {
          const [program, ...args] = peer.build(join(piece('hundred'), String(i)), tag)
          const child = spawn(program, args, { env: peer.env, stdio: 'ignore' })
          const code = await new Promise((resolve) => child.once('exit', resolve))
          if (code !== 0) throw new Error(`${peer.name}: build ${i} of a hundred ended with ${code}`)
          return (performance.now() - began) / 1000
        }),
      )
      const peak =
        peer.daemon === undefined ? '' : `, daemon ${memory(peer.daemon.pid, 'VmHWM').toFixed(0)} MiB`
      note({
        ...{ workload: 'hundred', peer: peer.name, seconds: Math.max(...done) },
        note: `first after ${Math.min(...done).toFixed(2)} s${peak}`,
      })
      cleanUp(peer, tags)
    }
  }
}

async function withRegistry(run, volume, work) {
  const storage = join(volume, 'registry')
  rmSync(storage, { recursive: true, force: true })
  mkdirSync(storage)
  const config = join(run, 'registry.yml')
  writeFileSync(
    config,
    `version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: ${storage}}\nhttp: {addr: '${registry}'}\n`,
  )
  const child = spawn('docker-registry', ['serve', config], { stdio: 'ignore' })
  try {
    while (!(await answers())) await new Promise((resolve) => setTimeout(resolve, 20))
    return await work()
  } finally {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    await ended
  }
}

function answers() {
  const [host, port] = registry.split(':')
  return new Promise((resolve) => {
    const probe = connect(Number(port), host, () => resolve(true))
    probe.once('error', () => resolve(false))
    probe.once('connect', () => probe.destroy())
  })
}

/** An image of about 470 MB: to a file, to a registry, back from both. */
async function transfer({ peers, runs, piece, volume, run: directory, note }) {
  const tag = 'bench-transfer:latest'
  const file = join(volume, 'transfer.tar')
  for (const peer of peers) {
    const remote = `${registry}/bench/${peer.name}:latest`
    const gone = () => cleanUp(peer, [tag, `docker.io/library/${tag}`, remote])
    for (let run = 0; run < runs; run++) {
      check(peer.build(piece('transfer'), tag), peer.env)
      rmSync(file, { force: true })
      note({ workload: 'save', peer: peer.name, seconds: timed(peer, peer.save(tag, file)) })
      check(peer.tag(tag, remote), peer.env)
      await withRegistry(directory, volume, async () => {
        note({ workload: 'push', peer: peer.name, seconds: timed(peer, peer.push(remote)) })
        gone()
        note({ workload: 'pull', peer: peer.name, seconds: timed(peer, peer.pull(remote)) })
      })
      gone()
      note({ workload: 'load', peer: peer.name, seconds: timed(peer, peer.load(file)) })
      gone()
    }
  }
  rmSync(file, { force: true })
}

/** 500 images: loaded, listed, and the daemon started with them. They stay until the state of the run goes. */
async function many({ peers, runs, piece, note }) {
  for (const peer of peers) {
    note({
      workload: 'load 500',
      peer: peer.name,
      seconds: timed(peer, peer.load(join(piece('many'), 'many.tar'))),
    })
    for (let run = 0; run < Math.max(5, runs); run++) {
      for (const call of ['images', 'version']) {
        note({ workload: `${call} of 500`, peer: peer.name, seconds: timed(peer, peer[call]()) })
      }
    }
    if (peer.daemon === undefined) continue
    for (let run = 0; run < runs; run++) {
      await peer.daemon.stop()
      note({ workload: 'start with 500', peer: peer.name, seconds: await peer.daemon.start() })
    }
  }
}

function changeOne(context, text) {
  writeFileSync(join(context, 'tree/package7/changed.js'), text)
}

export const measures = {
  tiny: cold('tiny'),
  tree: cold('tree'),
  large: cold('large'),
  commands: cold('commands'),
  stages: cold('stages'),
  'tree again': again('tree', 'tree again'),
  'commands again': again('commands', 'commands again'),
  'tree changed': again('tree', 'tree changed', changeOne),
  hundred,
  transfer,
  many,
  scale,
}
