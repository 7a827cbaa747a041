import { createGzip } from 'node:zlib'
import { zlibEngine } from '../zlib-engine.js'
import type { BlockEngine } from './compressor.js'

/** Gzip by the zlib inside Node, which is always there. Its header has neither a time nor a name. */
export const zlibGzip: BlockEngine = {
  kind: 'blocks',
  name: 'zlib',
  open(level) {
    const engine = zlibEngine(createGzip({ level }))
    return {
      compress(input, output) {
        engine.reset()
        const whole = (buffer: Buffer) => ({ buffer, offset: 0, length: buffer.length })
        const { failure, roomLeft, inputLeft } = engine.step(true, whole(input), whole(output))
        if (failure !== undefined || roomLeft === 0 || inputLeft !== 0) {
          throw new Error(`zlib cannot compress at level ${level}: ${failure ?? 'there is no room'}`)
        }
        return output.length - roomLeft
      },
      close: engine.close,
    }
  },
}
