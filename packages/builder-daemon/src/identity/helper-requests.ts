/** What the daemon asks an identity helper on the control socket; paths are latin1 bytes. */
export type HelperRequest =
  | { readonly op: 'openRead'; readonly path: string }
  | {
      readonly op: 'create'
      readonly path: string
      readonly mode: number
      readonly parent: WireIdentity | undefined
    }
  | {
      readonly op: 'replace' | 'exchange'
      readonly path: string
      readonly mode: number
      readonly base64: string
    }
  | { readonly op: 'remove'; readonly path: string; readonly dev: string; readonly ino: string }
  | { readonly op: 'createDirectory'; readonly path: string; readonly mode: number }
  | { readonly op: 'openDirectory'; readonly path: string }

/** Decimal, since JSON has no room for 64 bits. */
export interface WireIdentity {
  readonly dev: string
  readonly ino: string
}

/** `code` is set when it failed. Descriptors travel beside the answer. */
export interface HelperAnswer {
  readonly code?: string
  /** Of `openRead` where the descriptor is a pipe. */
  readonly stream?: { readonly size: number } & WireIdentity
  /** Of `openDirectory`. */
  readonly directory?: WireIdentity
}

/** Descriptors that a helper is started with. */
export const controlDescriptor = 3
export const doorbellDescriptor = 1

/** Largest content of a `replace` or an `exchange`, bytes. */
export const replaceLimit = 64 * 1024

export function decodeAnswer(value: unknown): HelperAnswer {
  if (typeof value !== 'object' || value === null) throw new Error('malformed answer of an identity helper')
  const { code, stream, directory } = value as Record<string, unknown>
  if (code !== undefined) {
    if (typeof code !== 'string') throw new Error('malformed answer of an identity helper')
    return { code }
  }
  return {
    ...(stream === undefined ? {} : { stream: decodeStream(stream) }),
    ...(directory === undefined ? {} : { directory: decodeIdentity(directory) }),
  }
}

function decodeStream(value: unknown): NonNullable<HelperAnswer['stream']> {
  const { size } = (value ?? {}) as Record<string, unknown>
  if (!Number.isSafeInteger(size) || typeof size !== 'number') {
    throw new Error('malformed answer of an identity helper')
  }
  return { size, ...decodeIdentity(value) }
}

function decodeIdentity(value: unknown): WireIdentity {
  const { dev, ino } = (value ?? {}) as Record<string, unknown>
  const isNumber = (text: unknown): text is string => typeof text === 'string' && /^\d{1,20}$/.test(text)
  if (!isNumber(dev) || !isNumber(ino)) throw new Error('malformed answer of an identity helper')
  return { dev, ino }
}
