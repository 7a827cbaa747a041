import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { LayerCompression } from '@isula-build/shared/oci/media-types.js'

/** What layers can be compressed with. */
export type Compression = Exclude<LayerCompression, 'none'>

const levels: Readonly<Record<Compression, { readonly from: number; readonly to: number }>> = {
  gzip: { from: 1, to: 9 },
  zstd: { from: 1, to: 19 },
}

/** Fails with ISB_ARGUMENT_INVALID for a level that the compression does not have; undefined is its default. */
export function checkCompressionLevel(compression: Compression, level: number | undefined): void {
  const range = Object.hasOwn(levels, compression) ? levels[compression] : undefined
  if (range === undefined) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', `unknown compression ${JSON.stringify(compression)}`, {
      hint: 'Layers are compressed with gzip or zstd.',
    })
  }
  if (level === undefined) return
  if (Number.isInteger(level) && level >= range.from && level <= range.to) return
  throw new BuilderError(
    'ISB_ARGUMENT_INVALID',
    `${level} is no compression level of ${compression}, which has ${range.from} to ${range.to}`,
  )
}

/**
 * Name of a way to compress: the same recipe makes the same bytes of a layer. `engine` tells library, version and
 * whatever else its output depends on.
 */
export function compressionRecipe(compression: Compression, level: number, engine: string): string {
  return `${compression}:${level}:${engine}`
}

/** Whether something was compressed so; undefined: any level will do. */
export function isRecipeOf(
  recipe: string | null,
  compression: Compression,
  level: number | undefined,
): boolean {
  if (level === undefined) return true
  return recipe?.startsWith(`${compression}:${level}:`) === true
}
