import { createHash } from 'node:crypto'

/** `sha256:` + 64 lower-case hex digits (OCI image spec, descriptor.md "Digests"). The only algorithm accepted. */
export type Digest = string & { readonly __brand: 'Digest' }

/** Digest of the uncompressed layer tar (OCI image spec, config.md `rootfs.diff_ids`). */
export type DiffId = Digest & { readonly __diff: 'DiffId' }

const pattern = /^sha256:[0-9a-f]{64}$/

/** Parses strictly; anything else than a lower-case sha256 digest gives undefined. */
export function parseDigest(text: unknown): Digest | undefined {
  return typeof text === 'string' && pattern.test(text) ? (text as Digest) : undefined
}

export function digestOf(bytes: Uint8Array | string): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}` as Digest
}

export function digestFromHex(hex: string): Digest {
  const digest = parseDigest(`sha256:${hex}`)
  if (digest === undefined) throw new Error(`not a sha256 hex digest: ${hex}`)
  return digest
}

/** The 64 hex digits. */
export function digestHex(digest: Digest): string {
  return digest.slice('sha256:'.length)
}
