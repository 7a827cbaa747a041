/** Compresses one block after the other, each into a stream that is whole by itself. */
export interface BlockCompressor {
  /** Fills `output` from its start; gives how much. It has room for the worst case. */
  compress(input: Buffer, output: Buffer): number
  close(): void
}

/** A library of this machine that makes gzip members (RFC 1952). The same input gives the same bytes. */
export interface BlockEngine {
  readonly kind: 'blocks'
  /** Library and version, for recipes. */
  readonly name: string
  open(level: number): BlockCompressor
}

/** Makes one compressed stream out of pieces. */
export interface StreamCompressor {
  /** Hands on what comes out, in pieces that are valid during the call only. Nothing may follow the last one. */
  write(input: Buffer, last: boolean): void
  /** Frees its memory; without harm after a failure and more than once. */
  close(): void
}

/** Like BlockEngine, for what loses too much when it starts anew with every block. */
export interface StreamEngine {
  readonly kind: 'stream'
  readonly name: string
  open(level: number, output: (bytes: Buffer) => void): StreamCompressor
}

export type CompressionEngine = BlockEngine | StreamEngine

/** Bytes of a block: members of this size come out a thousandth bigger than one for all, at most. */
export const blockSize = 1 << 20
/** Room for what comes out of a block; deflate adds 5 bytes to 64 KiB of noise. */
export const compressedLimit = blockSize + (128 << 10)
