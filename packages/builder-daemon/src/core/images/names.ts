import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localName } from '@isula-build/shared/oci/local-name.js'

/** Like `localName`, but undefined for text that is no name. */
export function tryLocalName(text: string): string | undefined {
  try {
    return localName(text)
  } catch (error) {
    if (isBuilderError(error, 'ISB_REFERENCE_INVALID')) return undefined
    throw error
  }
}

/** Names for a new image, without duplicates; a text that reads like an image ID is refused. */
export function localNames(texts: readonly string[]): readonly string[] {
  return [
    ...new Set(
      texts.map((text) => {
        if (/^[0-9a-f]{64}$/.test(text)) {
          throw new BuilderError('ISB_REFERENCE_INVALID', `"${text}" reads like an image ID, not like a name`)
        }
        return localName(text)
      }),
    ),
  ]
}
