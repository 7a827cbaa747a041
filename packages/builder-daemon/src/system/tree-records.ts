import { decodeStatx, type FileStat } from './file-stat.js'

/**
 * The records of one `createTreeScan(...).add`, looked up by directory: the directory's own struct statx, then what is
 * in it, then the same for every directory in it in that order. An entry is a name, filled up with zeros to a multiple
 * of eight, and its struct statx; what follows the last is a zero and their count.
 */
export interface TreeRecords {
  /** Path below the directory that was scanned, '' for itself. */
  readonly directories: ReadonlyMap<string, ScannedDirectory>
  /** Of all directories together. */
  readonly entries: number
}

export interface ScannedDirectory {
  /** Where its first entry begins. */
  readonly at: number
  /** Number of that entry. */
  readonly first: number
}

export interface ScannedEntry {
  readonly name: string
  readonly number: number
  readonly stat: FileStat
}

/** Bytes of a struct statx that are kept. */
export const statxBytes = 144
const markBytes = 16
const S_IFDIR = 4

/** `first` is the number of the first entry of all. */
export function indexTree(records: Buffer, first: number): TreeRecords {
  const directories = new Map<string, ScannedDirectory>()
  let at = statxBytes
  let entries = 0

  function index(path: string): void {
    directories.set(path, { at, first: first + entries })
    const below: string[] = []
    while (records[at] !== 0) {
      const end = records.indexOf(0, at)
      const stat = statAfter(end)
      if ((records[stat + 29] ?? 0) >> 4 === S_IFDIR) below.push(records.toString('latin1', at, end))
      at = stat + statxBytes
      entries += 1
    }
    at += markBytes
    for (const name of below) index(path === '' ? name : `${path}/${name}`)
  }

  index('')
  return { directories, entries }
}

/** The entries of one directory in the order in which they were listed. */
export function entriesOf(records: Buffer, { at: begin, first }: ScannedDirectory): ScannedEntry[] {
  const entries: ScannedEntry[] = []
  for (let at = begin; records[at] !== 0; ) {
    const end = records.indexOf(0, at)
    const stat = statAfter(end)
    entries.push({
      name: records.toString('latin1', at, end),
      number: first + entries.length,
      stat: decodeStatx(records, stat),
    })
    at = stat + statxBytes
  }
  return entries
}

function statAfter(end: number): number {
  return (end + 8) & ~7
}
