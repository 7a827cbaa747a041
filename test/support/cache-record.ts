import type { CacheRecord } from '../../packages/builder-daemon/src/ports/cache-index.js'
import type { LayerId } from '../../packages/builder-daemon/src/ports/layer-store.js'

export function layerId(digit: string): LayerId {
  return digit.repeat(32) as LayerId
}

/** A record over nothing, but for what is given. */
export function cacheRecord(
  shape: string,
  layer: LayerId | null,
  more: Partial<CacheRecord> = {},
): CacheRecord {
  return {
    ...{ shape, layer, contentKey: '', origin: { parent: [], inputs: [] } },
    ...{ state: undefined, inputsKey: undefined, tainted: false },
    ...more,
  }
}
