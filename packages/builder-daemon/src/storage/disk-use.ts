import { lstatSync, readdirSync, type Stats } from 'node:fs'
import { failureCode } from './failure.js'

/** What a file system may answer about a tree that changes, or is deeper than a path can say. */
const passedOver: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'])

/**
 * Room that a tree takes on the disk, bytes: blocks, not sizes; of a file with several links the share of one. Links are
 * not followed. Ends early, with an error, once number 0 of `stop` is set.
 */
export function diskUse(top: string, stop: Int32Array = new Int32Array(1)): number {
  let bytes = 0
  const queue: Buffer[] = [Buffer.from(top)]
  const count = (path: Buffer): void => {
    const stat = tolerant(() => lstatSync(path))
    if (stat === undefined) return
    bytes += shareOf(stat)
    if (stat.isDirectory()) queue.push(path)
  }
  count(queue.pop() ?? Buffer.from(top))
  for (let directory = queue.pop(); directory !== undefined; directory = queue.pop()) {
    if (Atomics.load(stop, 0) !== 0) throw new Error(`${top} is not measured: the store closes`)
    const parent = directory
    // Names are bytes: a layer holds whatever an image or a RUN put there.
    const names = tolerant(() => readdirSync(parent, { encoding: 'buffer' })) ?? []
    for (const name of names) count(Buffer.concat([parent, Buffer.from('/'), name]))
  }
  return Math.round(bytes)
}

function shareOf(stat: Stats): number {
  const bytes = stat.blocks * 512
  return stat.isDirectory() ? bytes : bytes / Math.max(1, stat.nlink)
}

function tolerant<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (passedOver.has(failureCode(error))) return undefined
    throw error
  }
}
