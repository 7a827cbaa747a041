import { createGunzip } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ByteSource } from '../tar/reader.js'
import { zlibEngine } from '../zlib-engine.js'
import type { Decompressor } from './decompressor.js'

const INPUT_BYTES = 1 << 18

/**
 * RFC 1952 with any number of members. Anything after the last member is damage, zeros too, as for
 * Go's compress/gzip.
 */
export function gunzip(source: ByteSource): Decompressor {
  const engine = zlibEngine(createGunzip())
  const input = Buffer.allocUnsafeSlow(INPUT_BYTES)
  let at = 0
  let available = 0
  let exhausted = false
  return {
    read(target, offset, length) {
      for (;;) {
        if (available === 0 && !exhausted) {
          at = 0
          available = source.read(input, 0, input.length)
          exhausted = available === 0
        }
        const { inputLeft, roomLeft, failure } = engine.step(
          exhausted,
          { buffer: input, offset: at, length: available },
          { buffer: target, offset, length },
        )
        if (failure !== undefined) throw damaged(failure)
        at += available - inputLeft
        available = inputLeft
        if (roomLeft > 0 && inputLeft > 0) throw damaged('there is more data after its end')
        const produced = length - roomLeft
        if (produced > 0 || exhausted) return produced
      }
    },
    close() {
      engine.close()
    },
  }
}

function damaged(reason: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `damaged gzip data: ${reason}`)
}
