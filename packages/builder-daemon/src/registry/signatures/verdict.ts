/** One signature, looked at with the keys that are trusted. */
export type Verdict =
  /** `payload` is what was signed, to be read only now. */
  | { readonly kind: 'verified'; readonly payload: Uint8Array }
  | { readonly kind: 'refused'; readonly reason: string }

export function refused(reason: string): Verdict {
  return { kind: 'refused', reason }
}

/** Bytes of one signature, and of its payload or of a key. More is no mistake but an attack. */
export const signatureLimit = 4 * 1024 * 1024
/** As containers/image reads. */
export const maxSignatures = 128
