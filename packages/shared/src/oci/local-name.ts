import { BuilderError } from '../errors/builder-error.js'
import { formatFamiliar, parseReference, withDefaultTag } from './reference.js'

/**
 * The form in which the image store keeps a name: familiar, always with a tag (`busybox:latest` for
 * `docker.io/library/busybox`). Fails with ISB_REFERENCE_INVALID, also for a reference with a digest.
 */
export function localName(text: string): string {
  const reference = parseReference(text)
  if (reference.digest !== undefined) {
    throw new BuilderError(
      'ISB_REFERENCE_INVALID',
      `${JSON.stringify(text)} holds a digest; a local name is repo:tag`,
    )
  }
  return formatFamiliar(withDefaultTag(reference))
}

/** Repository and tag of a name in local form. */
export function splitLocalName(name: string): { readonly repository: string; readonly tag: string } {
  const colon = name.lastIndexOf(':')
  if (colon < 0 || name.includes('/', colon)) throw new Error(`not a local name: ${name}`)
  return { repository: name.slice(0, colon), tag: name.slice(colon + 1) }
}
