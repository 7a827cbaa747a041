import type { FileStat } from '../system/file-stat.js'
import { isWhiteoutDevice } from '../system/file-stat.js'
import type { ExtendedAttribute } from './tar/entry.js'

/**
 * How overlayfs stores a changeset (kernel documentation, filesystems/overlayfs) and how a layer tar
 * does (OCI image spec, layer.md "Whiteouts").
 */

export const WHITEOUT_PREFIX = '.wh.'
export const OPAQUE_MARKER = '.wh..wh..opq'
export const OPAQUE_ATTRIBUTE = 'trusted.overlay.opaque'
export const OPAQUE_VALUE = Buffer.from('y')
const REDIRECT_ATTRIBUTE = 'trusted.overlay.redirect'
const METACOPY_ATTRIBUTE = 'trusted.overlay.metacopy'
const WHITEOUT_ATTRIBUTE = 'trusted.overlay.whiteout'

/**
 * Attributes that never leave or enter a layer: overlayfs's own, and what describes the host's policy
 * rather than the file.
 */
export function isLocalAttribute(name: string): boolean {
  return (
    name.startsWith('trusted.overlay.') ||
    name.startsWith('user.overlay.') ||
    name === 'security.selinux' ||
    name === 'security.apparmor' ||
    name === 'security.ima' ||
    name === 'security.evm' ||
    name === 'system.nfs4_acl'
  )
}

/** What of an upper's attributes belongs into the layer. */
export function exportedAttributes(all: readonly ExtendedAttribute[]): readonly ExtendedAttribute[] {
  if (!all.some(({ name }) => isLocalAttribute(name))) return all
  if (all.some(({ name }) => name === REDIRECT_ATTRIBUTE || name === METACOPY_ATTRIBUTE)) {
    throw new Error('the upper was written by an overlay with redirect_dir or metacopy: it is no changeset')
  }
  return all.filter(({ name }) => !isLocalAttribute(name))
}

/** A directory that hides what lower layers have at its place. */
export function isOpaque(xattrs: readonly ExtendedAttribute[]): boolean {
  return xattrs.some(({ name, value }) => name === OPAQUE_ATTRIBUTE && value.toString('latin1') === 'y')
}

/** A deletion, in either of overlayfs's forms: character device 0:0, or an empty file with the attribute. */
export function isWhiteout(stat: FileStat, xattrNames: () => readonly string[]): boolean {
  if (isWhiteoutDevice(stat)) return true
  return stat.type === 'file' && stat.size === 0 && xattrNames().includes(WHITEOUT_ATTRIBUTE)
}
