import { writeSync } from 'node:fs'
import { setDirect } from '../../system/syscalls.js'
import { hasErrno } from '../../system/system-error.js'
import { pieceBytes } from '../pipe/content-digest.js'

/**
 * Writes big files piece by piece, past the page cache where that is seen to be faster: filling the cache with what
 * nobody reads soon can cost more than the disk does (memory that a virtual machine has to get back from its host,
 * writers slowed down because too much is dirty). Both ways are tried now and then, and timed. `words` hold the state
 * that outlives a call.
 */
export interface PieceWriter {
  /** The next file, from its start. */
  begin(size: number): void
  write(fd: number, piece: Buffer): void
}

// Words of the state.
const BIG = 0
const DIRECT = 1
const REFUSED = 2
const COUNT = 3
const BUFFERED_TIME = 4
const DIRECT_TIME = 5

/** Smaller files are worth no trial, bytes. */
const bigBytes = 8 << 20
/** Pieces of each kind that are timed, and how many later they are timed again. */
const trial = 3
const period = 128

export function createPieceWriter(words: Int32Array): PieceWriter {
  const word = (index: number): number => words[index] ?? 0

  function isDirectBetter(): boolean {
    const place = word(COUNT) % period
    if (place < trial) return false
    if (place < 2 * trial) return true
    return word(DIRECT_TIME) * 1.25 < word(BUFFERED_TIME)
  }
  function change(fd: number, direct: boolean): void {
    if ((word(DIRECT) !== 0) === direct) return
    if (setDirect(fd, direct)) words[DIRECT] = direct ? 1 : 0
    else words[REFUSED] = 1
  }
  /** Gives how many bytes were written: all of them, or what came before a refusal. */
  function writeAll(fd: number, piece: Buffer, from: number): number {
    let at = from
    try {
      while (at < piece.length) {
        at += writeSync(fd, piece, at, piece.length - at)
        if (word(DIRECT) !== 0 && at < piece.length) return at
      }
      return at
    } catch (error) {
      if (word(DIRECT) === 0 || !hasErrno(error, 'EINVAL')) throw error
      words[REFUSED] = 1
      return at
    }
  }

  return {
    begin(size) {
      words[BIG] = size >= bigBytes ? 1 : 0
      words[DIRECT] = 0
    },
    write(fd, piece) {
      const choice = word(BIG) !== 0 && word(REFUSED) === 0 && piece.length === pieceBytes
      change(fd, choice && isDirectBetter())
      const which = word(DIRECT) === 0 ? BUFFERED_TIME : DIRECT_TIME
      const begin = performance.now()
      const at = writeAll(fd, piece, 0)
      if (at < piece.length) {
        change(fd, false)
        writeAll(fd, piece, at)
      }
      if (!choice) return
      const time = Math.round((performance.now() - begin) * 1000)
      words[which] = word(which) === 0 ? time : Math.round((3 * word(which) + time) / 4)
      words[COUNT] = word(COUNT) + 1
    },
  }
}
