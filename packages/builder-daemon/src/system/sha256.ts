import { createHash } from 'node:crypto'
import koffi from 'koffi'

/**
 * SHA-256 (FIPS 180-4) whose state lies in memory of the caller's own: threads may take turns at one sum, and what it was
 * somewhere on the way may be kept and gone on from. The functions are those of the OpenSSL inside the program.
 */
export interface OpenSha256 {
  begin(state: Buffer): void
  update(state: Buffer, bytes: Buffer): void
  /** The sum; the state is of no use afterwards. */
  finish(state: Buffer): Buffer
  /** The chaining value, once a multiple of 64 bytes went in. */
  save(state: Buffer): Buffer
  /** Goes on after `length` bytes (a multiple of 64) that gave the chaining value. */
  resume(state: Buffer, chaining: Buffer, length: number): void
}

/** Bytes of a state: SHA256_CTX of openssl/sha.h. */
export const stateBytes = 112
export const chainingBytes = 32
const blockBytes = 64
const LENGTH_LOW = 32
const LENGTH_HIGH = 36
const sumBytes = 32

/** undefined where the program does not give them away, or they are not what they should be. */
export function openSha256(): OpenSha256 | undefined {
  known ??= { functions: load() }
  return known.functions
}

let known: { readonly functions: OpenSha256 | undefined } | undefined

function load(): OpenSha256 | undefined {
  try {
    const functions = bind()
    return isRight(functions) ? functions : undefined
  } catch {
    return undefined
  }
}

function bind(): OpenSha256 {
  const program = koffi.load(null)
  const begin = program.func('int SHA256_Init(void *)')
  const update = program.func('int SHA256_Update(void *, const void *, size_t)')
  const finish = program.func('int SHA256_Final(void *, void *)')
  const must = (result: number): void => {
    if (result !== 1) throw new Error('SHA-256 failed')
  }
  return {
    begin: (state) => must(begin(state)),
    update: (state, bytes) => must(update(state, bytes, bytes.length)),
    finish(state) {
      const sum = Buffer.alloc(sumBytes)
      must(finish(sum, state))
      return sum
    },
    save: (state) => Buffer.from(state.subarray(0, chainingBytes)),
    resume(state, chaining, length) {
      must(begin(state))
      chaining.copy(state)
      const bits = BigInt(length) * 8n
      state.writeUInt32LE(Number(bits & 0xffff_ffffn), LENGTH_LOW)
      state.writeUInt32LE(Number(bits >> 32n), LENGTH_HIGH)
    },
  }
}

/** The layout is OpenSSL's own business, so it is tried. */
function isRight({ begin, update, finish, save, resume }: OpenSha256): boolean {
  const bytes = Buffer.from(Array.from({ length: 3 * blockBytes + 7 }, (_, index) => index * 31))
  const state = Buffer.alloc(stateBytes)
  begin(state)
  update(state, bytes.subarray(0, blockBytes))
  update(state, bytes.subarray(blockBytes, 2 * blockBytes))
  const other = Buffer.alloc(stateBytes)
  resume(other, save(state), 2 * blockBytes)
  update(other, bytes.subarray(2 * blockBytes))
  return finish(other).equals(createHash('sha256').update(bytes).digest())
}
