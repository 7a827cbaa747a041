/**
 * JSON text that depends on the value alone. Objects named in `shape` have their keys in that order,
 * unknown ones after them; all other objects have theirs sorted. `undefined` is left out.
 */
export function encodeCanonical(value: unknown, shape: KeyOrder): Uint8Array {
  return Buffer.from(JSON.stringify(arrange(value, shape)), 'utf8')
}

/** Keys in their order; the value says how the object (or the objects in the array) below is ordered. */
export interface KeyOrder {
  readonly [key: string]: KeyOrder
}

/** An object whose keys are sorted. */
export const sorted: KeyOrder = {}

function arrange(value: unknown, shape: KeyOrder): unknown {
  if (Array.isArray(value)) return value.map((item) => arrange(item, shape))
  if (typeof value !== 'object' || value === null) return value
  const entries = new Map(Object.entries(value))
  const known = Object.keys(shape)
  const rest = [...entries.keys()].filter((key) => !Object.hasOwn(shape, key)).sort(byBytes)
  const arranged: [string, unknown][] = []
  for (const key of [...known, ...rest]) {
    const item = entries.get(key)
    if (item !== undefined) arranged.push([key, arrange(item, shape[key] ?? sorted)])
  }
  return Object.fromEntries(arranged)
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
