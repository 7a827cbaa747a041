import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import type { History, ImageConfig } from '@isula-build/shared/oci/image-config.js'
import type { PlannedImage } from '../plan/plan.js'
import { encodeCanonical, type KeyOrder, sorted } from './canonical-json.js'

export interface AssembleInput {
  readonly planned: PlannedImage
  /** The base's config; null for `FROM scratch`. Usually `planned.base?.config`. */
  readonly base: ImageConfig | null
  /**
   * One entry for every entry of `planned.history`: the layer it describes, or null when it has none
   * (config only, nothing changed, or merged into a later layer of the stage).
   */
  readonly layers: readonly ({ readonly diffId: DiffId } | null)[]
  /** Becomes `created` of the image and of every entry this build adds. */
  readonly created: Date | undefined
}

export interface AssembledConfig {
  /** The image ID is their digest. */
  readonly bytes: Uint8Array
  /** 64 hex digits. */
  readonly id: string
  readonly config: ImageConfig
}

/** The largest config other tools read (containerd's and Docker's limit on a manifest or config blob). */
const maxConfigSize = 4 * 1024 * 1024

const configOrder: KeyOrder = {
  created: sorted,
  author: sorted,
  architecture: sorted,
  variant: sorted,
  os: sorted,
  'os.version': sorted,
  'os.features': sorted,
  config: {
    Hostname: sorted,
    User: sorted,
    ExposedPorts: sorted,
    Env: sorted,
    Entrypoint: sorted,
    Cmd: sorted,
    ArgsEscaped: sorted,
    Healthcheck: {
      Test: sorted,
      Interval: sorted,
      Timeout: sorted,
      StartPeriod: sorted,
      StartInterval: sorted,
      Retries: sorted,
    },
    Volumes: sorted,
    WorkingDir: sorted,
    Labels: sorted,
    StopSignal: sorted,
    OnBuild: sorted,
    Shell: sorted,
  },
  rootfs: { type: sorted, diff_ids: sorted },
  history: {
    created: sorted,
    author: sorted,
    created_by: sorted,
    comment: sorted,
    empty_layer: sorted,
  },
}

/**
 * The image config of a build, valid for Docker and OCI: the same input gives the same bytes. The
 * base's history comes first; the entries that are not `empty_layer` are exactly as many as layers.
 * Fails with ISB_LIMIT_EXCEEDED when the config is larger than 4 MiB.
 */
export function assembleConfig(input: AssembleInput): AssembledConfig {
  const { planned, base, layers } = input
  if (layers.length !== planned.history.length) {
    throw new Error(`${layers.length} layers for ${planned.history.length} history entries`)
  }
  const created = input.created === undefined ? undefined : formatTime(input.created)
  const own = planned.history.map((entry, i) => historyEntry(entry, layers[i] !== null, created))
  const added = layers.flatMap((layer) => (layer === null ? [] : [layer.diffId]))
  const author = planned.author
  const config: ImageConfig = {
    ...(created === undefined ? {} : { created }),
    ...(author === undefined ? {} : { author }),
    architecture: planned.platform.architecture,
    ...(planned.platform.variant === undefined ? {} : { variant: planned.platform.variant }),
    os: planned.platform.os,
    ...(base?.['os.version'] === undefined ? {} : { 'os.version': base['os.version'] }),
    ...(base?.['os.features'] === undefined ? {} : { 'os.features': base['os.features'] }),
    config: planned.config,
    rootfs: { type: 'layers', diff_ids: [...(base?.rootfs.diff_ids ?? []), ...added] },
    history: [...baseHistory(base), ...own],
  }
  const bytes = encodeCanonical(config, configOrder)
  if (bytes.length > maxConfigSize) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `the image config is larger than ${maxConfigSize} bytes`, {
      hint: 'Use fewer or shorter labels, variables and instructions.',
    })
  }
  return { bytes, id: digestHex(digestOf(bytes)), config }
}

function historyEntry(entry: History, hasLayer: boolean, created: string | undefined): History {
  return {
    ...(created === undefined ? {} : { created }),
    ...(entry.author === undefined ? {} : { author: entry.author }),
    ...(entry.created_by === undefined ? {} : { created_by: entry.created_by }),
    ...(entry.comment === undefined ? {} : { comment: entry.comment }),
    ...(hasLayer ? {} : { empty_layer: true }),
  }
}

/**
 * The base's history, one non-empty entry per layer. One that does not add up (imported and squashed
 * images) is replaced: readers pair entries with layers by counting.
 */
function baseHistory(base: ImageConfig | null): readonly History[] {
  if (base === null) return []
  const history = base.history ?? []
  const layers = base.rootfs.diff_ids.length
  if (history.filter((entry) => entry.empty_layer !== true).length === layers) return history
  const created = base.created === undefined ? {} : { created: base.created }
  return Array.from({ length: layers }, () => ({ ...created, comment: 'layer of the base image' }))
}

/** RFC 3339 in UTC, without a fraction of zero, as Go writes times. */
export function formatTime(time: Date): string {
  return time.toISOString().replace(/(?:\.000|(\.[0-9]*?)0+)Z$/, '$1Z')
}
