import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { SavedLayer } from '../core/images/saved-layers.js'
import { BLOCK, noAttributes, padding } from '../layer/tar/entry.js'
import { encodeHeader } from '../layer/tar/writer.js'
import type { ArchiveServices } from './archive-services.js'
import { writeAll } from './descriptor-io.js'

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

/**
 * Writes a tar at the descriptor's own offset, members sorted by name, in one pass without seeking. Fails
 * with ISB_IMAGE_DAMAGED when a layer is not what it was, ISB_NO_SPACE, ISB_CANCELLED; what was written so
 * far is then of no use.
 */
export async function writeTar(
  members: readonly OutputMember[],
  target: Target,
  services: Pick<ArchiveServices, 'layers' | 'workers'>,
): Promise<void> {
  const { fd, signal } = target
  const ordered = [...members].sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const member of ordered) {
    await writeAll(fd, headerOf(member, target.mtime), signal)
    if (member.kind === 'file') await writeAll(fd, padded(member.content), signal)
    if (member.kind !== 'layer') continue
    await writeLayer(member.layer, target, services)
    await writeAll(fd, Buffer.alloc(padding(member.layer.size)), signal)
  }
  await writeAll(fd, endMarker, signal)
}

/** The store learns of damage, so that storing the content again replaces the layer. */
async function writeLayer(
  { id, directory, keepsHeaders, diffId, size }: SavedLayer,
  { fd, signal }: Target,
  { layers, workers }: Pick<ArchiveServices, 'layers' | 'workers'>,
): Promise<void> {
  try {
    const params = { layerDirectory: directory, keepsHeaders, fd, expectedDiffId: diffId }
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
