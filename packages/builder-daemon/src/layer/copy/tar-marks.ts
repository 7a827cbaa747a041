import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { chainingBytes } from '../../system/sha256.js'
import type { TarSumState } from '../pipe/tar-sum.js'
import { entryText } from '../tar/content-id.js'
import type { TarEntry } from '../tar/entry.js'

/**
 * What the SHA-256 of a tar was behind one of its entries. It is true of every tar that begins with entries of this
 * digest, wherever that one is made.
 */
export interface TarMark extends TarSumState {
  /** Digest of all that the entries so far say and hold. */
  readonly entries: Buffer
}

/** Chained digests of entries. */
export interface EntrySum {
  add(entry: TarEntry, digest: Buffer | undefined): void
  /** Of all since the beginning, or since what `restart` was told. */
  cut(): Buffer
  restart(from: Buffer | undefined): void
}

const digestBytes = 32
const beginning = createHash('sha256').update('isula-build tar entries 1').digest()

export function createEntrySum(): EntrySum {
  let before: Buffer = beginning
  let text = ''
  return {
    add(entry, digest) {
      const content = entry.size > 0 ? digest?.toString('latin1') : ''
      if (content === undefined) throw new Error('content without a digest')
      text += `${entryText(entry)}${entry.mtimeNs} ${content}`
    },
    cut() {
      before = createHash('sha256').update(before).update(text, 'latin1').digest()
      text = ''
      return before
    },
    restart(from) {
      before = from ?? beginning
      text = ''
    },
  }
}

// A file beside the layer: magic, marks, checksum of all that.
const fileName = 'marks'
const magic = Buffer.from('isula-marks-1\n\0\0', 'latin1')
const markBytes = 8 + chainingBytes + digestBytes

/** Missing or torn they are no loss but of time. */
export function writeTarMarks(directory: string, marks: readonly TarMark[]): void {
  if (marks.length === 0) return
  const bytes = Buffer.alloc(magic.length + marks.length * markBytes)
  magic.copy(bytes)
  let at = magic.length
  for (const { length, chaining, entries } of marks) {
    bytes.writeDoubleLE(length, at)
    chaining.copy(bytes, at + 8)
    entries.copy(bytes, at + 8 + chainingBytes)
    at += markBytes
  }
  writeFileSync(join(directory, fileName), Buffer.concat([bytes, sumOf(bytes)]), { mode: 0o600 })
}

/** None where nothing can be read, or believed. */
export function readTarMarks(directory: string): readonly TarMark[] {
  let file: Buffer
  try {
    file = readFileSync(join(directory, fileName))
  } catch {
    return []
  }
  const end = file.length - digestBytes
  const count = (end - magic.length) / markBytes
  if (!Number.isInteger(count) || count <= 0 || !file.subarray(0, magic.length).equals(magic)) return []
  if (!sumOf(file.subarray(0, end)).equals(file.subarray(end))) return []
  return Array.from({ length: count }, (_, index) => {
    const at = magic.length + index * markBytes
    const chaining = at + 8
    return {
      length: file.readDoubleLE(at),
      chaining: file.subarray(chaining, chaining + chainingBytes),
      entries: file.subarray(chaining + chainingBytes, at + markBytes),
    }
  })
}

function sumOf(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest()
}
