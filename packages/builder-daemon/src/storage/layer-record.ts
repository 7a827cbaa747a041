import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { LayerId, LayerRecord } from '../ports/layer-store.js'
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
