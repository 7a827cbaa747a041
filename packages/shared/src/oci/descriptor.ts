import type { Digest } from './digest.js'
import type { Platform } from './platform.js'

/** Pointer to a blob (OCI image spec, descriptor.md). `size` is in bytes, of the bytes as stored. */
export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  readonly size: number
  readonly annotations?: Readonly<Record<string, string>>
  readonly platform?: Platform
}
