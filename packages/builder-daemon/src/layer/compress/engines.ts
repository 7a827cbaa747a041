import { createHash } from 'node:crypto'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import {
  type Compression,
  checkCompressionLevel,
  compressionRecipe,
} from '../../core/image/compression-level.js'
import { type CompressionEngine, compressedLimit } from './compressor.js'
import { isalEngine, isalLevels } from './isal.js'
import { zlibGzip } from './zlib.js'
import { zstdEngine } from './zstd.js'

export interface ChosenEngine {
  readonly engine: CompressionEngine
  readonly level: number
  readonly recipe: string
}

/**
 * Where ISA-L is missing, zlib's fastest level: the next ones take a fourth of the time more for a fiftieth of the
 * size. ISA-L's second level costs next to nothing over its first, its third twice as much.
 */
const defaults = { isal: 2, zlib: 1, zstd: 3 } as const

/**
 * The fastest engine of this machine for a level, its default when undefined. Fails with ISB_ARGUMENT_INVALID, or
 * with ISB_UNSUPPORTED where zstd is missing.
 */
export function chooseEngine(compression: Compression, level: number | undefined): ChosenEngine {
  checkCompressionLevel(compression, level)
  if (compression === 'zstd') {
    const zstd = zstdEngine()
    if (zstd === null) {
      throw new BuilderError('ISB_UNSUPPORTED', 'cannot compress with zstd: libzstd.so.1 is not installed', {
        hint: 'Install libzstd, or choose gzip.',
      })
    }
    return chosen(compression, zstd, level ?? defaults.zstd)
  }
  const isal = isalEngine()
  if (isal === null) return chosen(compression, zlibGzip, level ?? defaults.zlib)
  const wanted = level ?? defaults.isal
  return chosen(compression, wanted <= isalLevels.to ? isal : zlibGzip, wanted)
}

const recipes = new Map<string, string>()

function chosen(compression: Compression, engine: CompressionEngine, level: number): ChosenEngine {
  const key = `${engine.name}:${level}`
  const recipe =
    recipes.get(key) ?? compressionRecipe(compression, level, `${engine.name}-${trait(engine, level)}`)
  recipes.set(key, recipe)
  return { engine, level, recipe }
}

/**
 * What the engine makes of a sample, in short: libraries that do not tell their version, or that use what the
 * processor offers, give other bytes under the same name.
 */
function trait(engine: CompressionEngine, level: number): string {
  const hash = createHash('sha256')
  if (engine.kind === 'blocks') {
    const compressor = engine.open(level)
    const output = Buffer.allocUnsafeSlow(compressedLimit)
    try {
      hash.update(output.subarray(0, compressor.compress(sample(), output)))
    } finally {
      compressor.close()
    }
  } else {
    const compressor = engine.open(level, (bytes) => hash.update(bytes))
    try {
      compressor.write(sample(), true)
    } finally {
      compressor.close()
    }
  }
  return hash.digest('hex').slice(0, 8)
}

const SAMPLE_BYTES = 192 << 10

/** Words of a small vocabulary, more varied towards the end: matches near and far, and some noise. */
function sample(): Buffer {
  const bytes = Buffer.allocUnsafeSlow(SAMPLE_BYTES)
  let state = 1
  const next = (): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return state >>> 8
  }
  for (let at = 0; at < bytes.length; ) {
    const length = 2 + (next() % 14)
    const word = next() % (16 + (at >>> 6))
    for (let i = 0; i < length && at < bytes.length; i++, at++)
      bytes[at] = (word * (i + 7) * 2_654_435) >>> 11
  }
  return bytes
}
