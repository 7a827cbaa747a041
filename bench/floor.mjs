// What this machine can do at all: the work that cannot be avoided, done by the shortest program that does it.
import { createHash } from 'node:crypto'
import { closeSync, mkdirSync, openSync, readdirSync, readSync, rmSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'

const buffer = Buffer.allocUnsafeSlow(1 << 20)

function seconds(work) {
  const began = performance.now()
  work()
  return (performance.now() - began) / 1000
}

/** Reads, hashes and writes every file once, in one thread. */
function copyHashed(from, to, hash) {
  mkdirSync(to)
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory()) {
      copyHashed(source, target, hash)
      continue
    }
    const [input, output] = [openSync(source, 'r'), openSync(target, 'wx')]
    for (let count = readSync(input, buffer); count > 0; count = readSync(input, buffer)) {
      const bytes = buffer.subarray(0, count)
      hash.update(bytes)
      writeSync(output, bytes)
    }
    closeSync(input)
    closeSync(output)
  }
}

function walk(path) {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const below = join(path, entry.name)
    if (entry.isDirectory()) walk(below)
    else statSync(below)
  }
}

const copying =
  (workload, part) =>
  ({ volume, piece }) => {
    const target = join(volume, 'floor')
    rmSync(target, { recursive: true, force: true })
    const source = join(piece(workload), part)
    walk(source)
    const taken = seconds(() => copyHashed(source, target, createHash('sha256')))
    rmSync(target, { recursive: true, force: true })
    return [{ workload, peer: 'floor', seconds: taken, note: 'read, hash and write once, one thread' }]
  }

export const floors = {
  tree: copying('tree', 'tree'),
  large: copying('large', 'data'),
  'tree again': ({ piece }) => {
    const source = join(piece('tree'), 'tree')
    walk(source)
    return [
      {
        workload: 'tree again',
        peer: 'floor',
        seconds: seconds(() => walk(source)),
        note: 'stat of every file',
      },
    ]
  },
}
