import { type DiffId, type Digest, digestOf } from './digest.js'

/**
 * Chain ID of a stack of layers, bottom first (OCI image spec, config.md "Layer ChainID").
 * Throws on an empty stack, which has none.
 */
export function chainId(diffIds: readonly DiffId[]): Digest {
  const [first, ...rest] = diffIds
  if (first === undefined) throw new Error('an empty stack of layers has no chain ID')
  let chain: Digest = first
  for (const diffId of rest) chain = digestOf(`${chain} ${diffId}`)
  return chain
}

/** Names the stack below a layer: its chain ID, or the digest of nothing for a bottom layer. */
export function parentKey(parents: readonly DiffId[]): Digest {
  return parents.length === 0 ? digestOf('') : chainId(parents)
}
