const mebibyte = 1024 * 1024
const gibibyte = 1024 * mebibyte

/** Checked on every image that comes from elsewhere. */
export const imageLimits = {
  /** Bytes of a manifest, an index or a configuration. */
  document: 4 * mebibyte,
  /** Bytes of one uncompressed layer tar. */
  layer: 50 * gibibyte,
  /** Layers of one image; more than these cannot be mounted over one another. */
  layers: 127,
} as const
