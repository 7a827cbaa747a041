import { closeSync, openSync, writeSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { type Digest, parseDigest } from '@isula-build/shared/oci/digest.js'

/**
 * A blob on its way from the thread that makes it to the one that sends it: pieces in a ring of memory that both share.
 * Who makes it never waits long for who sends it; when the ring stays full, the rest goes into a file, where it can be
 * read from at any pace.
 */

// Words of the head, all zeros in a pipe that nobody has used.
const WRITTEN = 0
const TAKEN = 1
const STATE = 2
/** The first piece that is in the file, and one more; 0 while there is none. */
const IN_FILE = 3
/** The piece that is shorter than others, and one more. */
const SHORT = 4
const SHORT_LENGTH = 5
/** Grows with everything that happens on the writer's side. */
const CHANGES = 6
const textAt = 256

const WHOLE = 1
const FAILED = 2

const headBytes = 4096
const pieceBytes = 1 << 18
/** An abort is noticed so soon, milliseconds. */
const wakeUp = 50
/** The writer takes the file when it has waited for longer, milliseconds, and for more than this part of its time. */
const patience = 500
const patientPart = 0.25

export interface WholeBlob {
  readonly digest: Digest
  readonly size: number
}

export interface BlobPipeWriter {
  write(bytes: Buffer): void
  /** The blob is whole. */
  finish(digest: Digest): void
  /** To be called in any case; without `finish` before, the reader learns that there will be no blob. */
  close(): void
  /** The reader was too slow. */
  readonly usesFile: boolean
}

function ringOf(memory: SharedArrayBuffer) {
  const count = Math.floor((memory.byteLength - headBytes) / pieceBytes)
  if (count < 4) throw new Error(`${memory.byteLength} bytes are no pipe`)
  return {
    words: new Int32Array(memory, 0, headBytes / 4),
    count,
    piece: (index: number) => Buffer.from(memory, headBytes + (index % count) * pieceBytes, pieceBytes),
  }
}

/** `check` is called while the reader is waited for, and may throw. `path` is a file whose content is replaced when needed. */
export function writeToPipe(memory: SharedArrayBuffer, path: string, check: () => void): BlobPipeWriter {
  const { words, count, piece } = ringOf(memory)
  let fd: number | undefined
  let own: Buffer | undefined
  let filling: Buffer | undefined
  let used = 0
  let written = 0
  let waited = 0
  const began = performance.now()
  const isPatient = (): boolean => waited <= patience || waited <= (performance.now() - began) * patientPart

  function changed(): void {
    Atomics.add(words, CHANGES, 1)
    Atomics.notify(words, CHANGES)
  }

  /** False when the reader does not come. */
  function waitForRoom(): boolean {
    for (;;) {
      const taken = Atomics.load(words, TAKEN)
      if (written - taken < count) return true
      if (!isPatient()) return false
      check()
      const begin = performance.now()
      Atomics.wait(words, TAKEN, taken, wakeUp)
      waited += performance.now() - begin
    }
  }

  function next(): Buffer {
    if (fd === undefined && waitForRoom()) return piece(written)
    if (fd === undefined) {
      fd = openSync(path, 'w', 0o600)
      Atomics.store(words, IN_FILE, written + 1)
    }
    own ??= Buffer.allocUnsafeSlow(pieceBytes)
    return own
  }

  function publish(): void {
    if (filling === undefined) return
    if (fd !== undefined) for (let at = 0; at < used; ) at += writeSync(fd, filling, at, used - at)
    if (used < pieceBytes) {
      Atomics.store(words, SHORT_LENGTH, used)
      Atomics.store(words, SHORT, written + 1)
    }
    written += 1
    filling = undefined
    used = 0
    Atomics.store(words, WRITTEN, written)
    changed()
  }

  return {
    write(bytes) {
      for (let at = 0; at < bytes.length; ) {
        filling ??= next()
        const length = Math.min(bytes.length - at, pieceBytes - used)
        bytes.copy(filling, used, at, at + length)
        used += length
        at += length
        if (used === pieceBytes) publish()
      }
    },
    finish(digest) {
      publish()
      const text = Buffer.from(digest, 'latin1')
      Buffer.from(memory, textAt, 1).writeUInt8(text.length)
      Buffer.from(memory, textAt + 1, text.length).set(text)
      Atomics.store(words, STATE, WHOLE)
      changed()
    },
    close() {
      if (fd !== undefined) closeSync(fd)
      fd = undefined
      if (Atomics.compareExchange(words, STATE, 0, FAILED) === 0) changed()
    },
    get usesFile() {
      return Atomics.load(words, IN_FILE) !== 0
    },
  }
}

export interface BlobPipeReader {
  /** Resolves when there is a whole ring to send, or the blob is complete: to what it is then. */
  ready(): Promise<WholeBlob | undefined>
  /** Once, from its start. Each piece is valid until the one after the next is asked for. */
  pieces(): AsyncIterable<Uint8Array>
  /** The blob, once it is whole. */
  whole(): WholeBlob | undefined
}

/** There will be no blob: whoever makes it knows why. */
export class BlobPipeBroken extends Error {
  override readonly name = 'BlobPipeBroken'
}

/** Who began to read wants to begin again. */
export class BlobPipeSpent extends Error {
  override readonly name = 'BlobPipeSpent'
}

export function readFromPipe(memory: SharedArrayBuffer, path: string, signal: AbortSignal): BlobPipeReader {
  const { words, count, piece } = ringOf(memory)
  const load = (word: number): number => Atomics.load(words, word)
  let isRead = false

  /** Until something changed since `seen`, or a while is over. */
  async function change(seen: number): Promise<void> {
    signal.throwIfAborted()
    if (load(STATE) === FAILED) throw new BlobPipeBroken('the blob was not finished')
    await Atomics.waitAsync(words, CHANGES, seen, wakeUp).value
  }

  function whole(): WholeBlob | undefined {
    if (load(STATE) !== WHOLE) return undefined
    const length = Buffer.from(memory, textAt, 1).readUInt8()
    const digest = parseDigest(Buffer.from(memory, textAt + 1, length).toString('latin1'))
    if (digest === undefined) throw new Error('a pipe without a digest')
    const short = load(SHORT) === 0 ? 0 : pieceBytes - load(SHORT_LENGTH)
    return { digest, size: load(WRITTEN) * pieceBytes - short }
  }

  async function* pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    if (isRead) throw new BlobPipeSpent('a pipe can be read once')
    isRead = true
    let file: FileHandle | undefined
    const buffers: Buffer[] = []
    try {
      for (let index = 0; ; index += 1) {
        // The piece before may still be on its way.
        Atomics.store(words, TAKEN, Math.max(0, index - 1))
        Atomics.notify(words, TAKEN)
        for (let seen = load(CHANGES); index >= load(WRITTEN); seen = load(CHANGES)) {
          if (load(STATE) === WHOLE && index >= load(WRITTEN)) return
          await change(seen)
        }
        signal.throwIfAborted()
        const length = load(SHORT) === index + 1 ? load(SHORT_LENGTH) : pieceBytes
        const first = load(IN_FILE) - 1
        if (first < 0 || index < first) yield piece(index).subarray(0, length)
        else {
          file ??= await open(path, 'r')
          const buffer = buffers[index % 3] ?? Buffer.allocUnsafeSlow(pieceBytes)
          buffers[index % 3] = buffer
          yield await readPiece(file, buffer.subarray(0, length), (index - first) * pieceBytes)
        }
      }
    } finally {
      await file?.close()
    }
  }

  return {
    async ready() {
      for (let seen = load(CHANGES); load(WRITTEN) < count; seen = load(CHANGES)) {
        const blob = whole()
        if (blob !== undefined) return blob
        await change(seen)
      }
      return whole()
    },
    pieces,
    whole,
  }
}

async function readPiece(file: FileHandle, buffer: Buffer, position: number): Promise<Buffer> {
  for (let at = 0; at < buffer.length; ) {
    const { bytesRead } = await file.read(buffer, at, buffer.length - at, position + at)
    if (bytesRead === 0) throw new Error('a file became shorter while it was sent')
    at += bytesRead
  }
  return buffer
}
