import { createHash } from 'node:crypto'
import type { TarEntry } from './entry.js'

/**
 * What a layer holds, whenever its files were written: a digest over everything its canonical tar says but the
 * times. Layers with the same content ID change a file system in the same way.
 */
export interface ContentIdentity {
  /** The next entry, in the order of the tar. */
  entry(entry: Omit<TarEntry, 'mtimeNs'>): void
  /** Content digest of the file whose entry came last (see `content-digest`); for one with content only. */
  content(digest: Buffer): void
  /** `content:` and 64 hex digits. */
  finish(): string
}

/** Changes with the meaning of any field. */
const version = '1'

/** Characters that are put together before they are hashed. */
const pieceLength = 1 << 16

export function createContentIdentity(): ContentIdentity {
  const hash = createHash('sha256')
  let pending = `${version}\n`

  function append(text: string): void {
    pending += text
    if (pending.length < pieceLength) return
    hash.update(pending, 'latin1')
    pending = ''
  }
  return {
    entry: (entry) => append(entryText(entry)),
    content(digest) {
      append(`=${digest.toString('latin1')}`)
    },
    finish() {
      hash.update(pending, 'latin1')
      return `content:${hash.digest('hex')}`
    },
  }
}

/** Everything that a canonical tar says of an entry but its time; no other entry gives the same text. */
export function entryText(entry: Omit<TarEntry, 'mtimeNs'>): string {
  const { path, type, mode, uid, gid, size, linkName, deviceMajor, deviceMinor, xattrs } = entry
  // Neither a path nor a link target holds a NUL, and everything else is a number or has its length before it.
  let text = `\n${type} ${mode} ${uid} ${gid} ${size} ${deviceMajor} ${deviceMinor} ${path}\0${linkName}\0`
  for (const { name, value } of xattrs) text += `${name}\0${value.length}:${value.toString('latin1')}`
  return text
}
