import { imageLimits } from '../core/images/image-limits.js'

/** Bytes unless said otherwise. Checked on everything that comes from an archive. */
export interface ArchiveLimits {
  /** The archive as given and, when it is compressed, unpacked. */
  readonly archive: number
  /** The file given to import, as given. */
  readonly importFile: number
  /** One uncompressed layer tar. */
  readonly layer: number
  /** manifest.json and repositories of a docker archive (containers/image internal/iolimits). */
  readonly dockerManifest: number
  /** Image manifests, indexes and configurations. */
  readonly document: number
  /** Members of the archive, and the sum of the lengths of their names. */
  readonly members: number
  readonly memberNames: number
}

const mebibyte = 1024 * 1024
const gibibyte = 1024 * mebibyte

export const defaultLimits: ArchiveLimits = {
  archive: 50 * gibibyte,
  importFile: gibibyte,
  layer: imageLimits.layer,
  dockerManifest: mebibyte,
  document: imageLimits.document,
  members: 1_000_000,
  memberNames: 64 * mebibyte,
}
