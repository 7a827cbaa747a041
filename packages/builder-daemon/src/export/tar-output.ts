import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { inParallel } from '../core/images/in-parallel.js'
import type { SavedLayer } from '../core/images/saved-layers.js'
import { BLOCK, noAttributes, padding } from '../layer/tar/entry.js'
import { encodeHeader } from '../layer/tar/writer.js'
import type { ArchiveServices } from './archive-services.js'
import { statDescriptor, writeAll, writeAllAt } from './descriptor-io.js'

/** A member of an archive being written. Names are without slashes at either end. */
export type OutputMember =
  | { readonly kind: 'directory'; readonly name: string }
  | { readonly kind: 'file'; readonly name: string; readonly content: Uint8Array }
  /** The uncompressed tar of a layer; `size` in bytes. */
  | {
      readonly kind: 'layer'
      readonly name: string
      readonly layer: SavedLayer
    }

interface Target {
  readonly fd: number
  /** Seconds since the epoch, of every member. */
  readonly mtime: number
  readonly signal: AbortSignal
}

const endMarker = Buffer.alloc(2 * BLOCK)
/** Layers on their way into one file. */
const layersAtOnce = 4

type Services = Pick<ArchiveServices, 'layers' | 'workers'>

/**
 * Writes a tar, members sorted by name: into an empty file with the layers side by side, else at the descriptor's own
 * offset in one pass without seeking. Fails with ISB_IMAGE_DAMAGED when a layer is not what it was, ISB_NO_SPACE,
 * ISB_CANCELLED; what was written so far is then of no use.
 */
export async function writeTar(
  members: readonly OutputMember[],
  target: Target,
  services: Services,
): Promise<void> {
  const ordered = [...members].sort((a, b) => (a.name < b.name ? -1 : 1))
  const stat = await statDescriptor(target.fd)
  if (stat.isFile() && stat.size === 0) await writeSideBySide(ordered, target, services)
  else await writeInOrder(ordered, target, services)
}

async function writeInOrder(
  members: readonly OutputMember[],
  target: Target,
  services: Services,
): Promise<void> {
  const { fd, signal } = target
  for (const member of members) {
    await writeAll(fd, headerOf(member, target.mtime), signal)
    if (member.kind === 'file') await writeAll(fd, padded(member.content), signal)
    if (member.kind !== 'layer') continue
    await writeLayer(member.layer, undefined, target, services)
    await writeAll(fd, Buffer.alloc(padding(member.layer.size)), signal)
  }
  await writeAll(fd, endMarker, signal)
}

/** Sizes are known, and so is the place of everything. The first failure stops the rest. */
async function writeSideBySide(
  members: readonly OutputMember[],
  target: Target,
  services: Services,
): Promise<void> {
  const layers: { readonly layer: SavedLayer; readonly offset: number }[] = []
  let offset = 0
  let between: Uint8Array[] = []
  const flush = async (): Promise<void> => {
    const bytes = Buffer.concat(between)
    between = []
    await writeAllAt(target.fd, bytes, offset, target.signal)
    offset += bytes.length
  }
  for (const member of members) {
    between.push(headerOf(member, target.mtime))
    if (member.kind === 'file') between.push(padded(member.content))
    if (member.kind !== 'layer') continue
    await flush()
    layers.push({ layer: member.layer, offset })
    offset += member.layer.size
    between.push(Buffer.alloc(padding(member.layer.size)))
  }
  between.push(endMarker)
  await flush()
  const stop = new AbortController()
  const stoppable = { ...target, signal: AbortSignal.any([target.signal, stop.signal]) }
  // The biggest first, so that none is left over for the end.
  layers.sort((a, b) => b.layer.size - a.layer.size)
  await inParallel(layers, layersAtOnce, async (one) => {
    try {
      await writeLayer(one.layer, one.offset, stoppable, services)
    } catch (error) {
      stop.abort()
      throw error
    }
  })
}

/** The store learns of damage, so that storing the content again replaces the layer. */
async function writeLayer(
  { id, directory, keepsHeaders, diffId, size }: SavedLayer,
  offset: number | undefined,
  { fd, signal }: Target,
  { layers, workers }: Services,
): Promise<void> {
  try {
    const params = { layerDirectory: directory, keepsHeaders, fd, offset, expectedDiffId: diffId }
    const written = await workers.run('writeLayer', params, signal)
    if (written.tarSize === size && written.diffId === diffId) return
    throw new BuilderError(
      'ISB_IMAGE_DAMAGED',
      `layer ${diffId} has ${written.tarSize} bytes where ${size} were recorded`,
    )
  } catch (error) {
    if (isBuilderError(error, 'ISB_IMAGE_DAMAGED')) await layers.reportDamage(id)
    throw error
  }
}

function padded(content: Uint8Array): Uint8Array {
  return Buffer.concat([content, Buffer.alloc(padding(content.length))])
}

function headerOf(member: OutputMember, mtime: number): Buffer {
  const isDirectory = member.kind === 'directory'
  return encodeHeader({
    path: member.name,
    type: isDirectory ? 'directory' : 'file',
    mode: isDirectory ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    size: sizeOf(member),
    mtimeNs: BigInt(mtime) * 1_000_000_000n,
    linkName: '',
    deviceMajor: 0,
    deviceMinor: 0,
    xattrs: noAttributes,
  })
}

function sizeOf(member: OutputMember): number {
  if (member.kind === 'file') return member.content.length
  return member.kind === 'layer' ? member.layer.size : 0
}
