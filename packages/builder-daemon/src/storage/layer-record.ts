import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { LayerId, LayerRecord } from '../ports/layer-store.js'
import type { LayerMeta } from './layer-meta.js'
import type { LayerRow } from './writes/layers.js'

export function layerRecord(row: LayerRow): LayerRecord {
  return {
    id: row.id as LayerId,
    diffId: row.diff_id as DiffId | null,
    tarSize: row.tar_size,
    keepsHeaders: row.keeps_headers === 1,
    parentKey: row.parent_key,
  }
}

/** What lies beside the layer's files. */
export function layerMeta(row: LayerRow, publishedAt: number): LayerMeta {
  return { ...layerRecord(row), family: row.family === row.id ? null : row.family, publishedAt }
}
