import { createHash } from 'node:crypto'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { lgetxattr, llistxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { readStore } from './store-inspection.js'

/** One path of an image's root file system; bytes of names, links and values as latin1. */
export interface TreeEntry {
  /** Kind, mode, owner, size, content, link, device, extended attributes. */
  readonly facts: string
  /** Kind and content, for looking up where a time may come from. */
  readonly origin: string
  readonly mtimeNs: bigint
  /** Same text, same file. */
  readonly inode: string
}

export type Tree = ReadonlyMap<string, TreeEntry>

const opaque = 'trusted.overlay.opaque'

/** Directories of an image's layers below the data root of a daemon, the lowest first. */
export function layersOf(data: string, imageId: string): readonly string[] {
  const id = imageId.replace(/^sha256:/, '')
  const rows = readStore<{ layer: string }>(
    data,
    `SELECT layer_id AS layer FROM image_layers WHERE image_id LIKE '%${id}' ORDER BY position`,
  )
  return rows.map(({ layer }) => join(data, 'layers', layer, 'diff'))
}

/** Id of the image with a name. */
export function imageOf(data: string, name: string): string {
  const [row] = readStore<{ id: string }>(data, `SELECT image_id AS id FROM names WHERE name LIKE '%${name}'`)
  if (row === undefined) throw new Error(`there is no image ${name}`)
  return row.id
}

/** The config of an image as the store holds it. */
export function configOf(data: string, imageId: string): Readonly<Record<string, unknown>> {
  const id = imageId.replace(/^sha256:/, '')
  const [row] = readStore<{ config: Buffer }>(data, `SELECT config FROM images WHERE id LIKE '%${id}'`)
  if (row === undefined) throw new Error(`there is no image ${imageId}`)
  return JSON.parse(row.config.toString('utf8'))
}

/** What layers hold together. */
export function treeOfLayers(layers: readonly string[]): Tree {
  const tree = new Map<string, TreeEntry>()
  for (const layer of layers) addLayer(tree, layer)
  return tree
}

/** A directory, which is the path '', and what lies in there. */
export function treeOf(directory: string): Tree {
  const own = entryOf(directory, directory)
  return new Map([...(own === undefined ? [] : [['', own] as const]), ...treeOfLayers([directory])])
}

function addLayer(tree: Map<string, TreeEntry>, layer: string): void {
  const root = Buffer.from(layer, 'utf8').toString('latin1')
  const visit = (below: string): void => {
    for (const name of readdirSync(bytes(root + below), { encoding: 'latin1' }).sort()) {
      const path = `${below}/${name}`
      const entry = entryOf(root + path, layer)
      if (entry === undefined) {
        remove(tree, path)
        continue
      }
      const isDirectory = entry.origin === 'directory'
      const isOpaque = isDirectory && lgetxattr(root + path, opaque)?.toString() === 'y'
      if (isOpaque || !isDirectory || tree.get(path)?.origin !== 'directory') remove(tree, path)
      tree.set(path, entry)
      if (isDirectory) visit(path)
    }
  }
  visit('')
}

function remove(tree: Map<string, TreeEntry>, path: string): void {
  tree.delete(path)
  for (const other of tree.keys()) if (other.startsWith(`${path}/`)) tree.delete(other)
}

const bytes = (path: string): Buffer => Buffer.from(path, 'latin1')

/** undefined for what stands for something that was removed. */
function entryOf(path: string, layer: string): TreeEntry | undefined {
  const stat = lstatSync(bytes(path), { bigint: true })
  if (stat.isCharacterDevice() && stat.rdev === 0n) return undefined
  const isFile = stat.isFile()
  const content = isFile
    ? createHash('sha256')
        .update(readFileSync(bytes(path)))
        .digest('hex')
    : ''
  const link = stat.isSymbolicLink() ? readlinkSync(bytes(path), { encoding: 'latin1' }) : ''
  const attributes = llistxattr(path)
    .filter((name) => !name.startsWith('trusted.overlay.'))
    .sort()
    .map((name) => `${name}=${lgetxattr(path, name)?.toString('hex')}`)
  const kind = isFile ? 'file' : stat.isDirectory() ? 'directory' : stat.isSymbolicLink() ? 'link' : 'other'
  const mode = stat.mode.toString(8)
  const size = isFile ? stat.size : 0
  const facts = [mode, `${stat.uid}:${stat.gid}`, size, content, link, stat.rdev, ...attributes]
  return {
    facts: facts.join(' '),
    origin: [kind, content, link].filter((part) => part !== '').join(' '),
    mtimeNs: stat.mtimeNs,
    inode: `${layer} ${stat.ino}`,
  }
}

/** Paths that are one file, by each of them. */
export function hardLinks(tree: Tree): ReadonlyMap<string, string> {
  const names = new Map<string, string[]>()
  for (const [path, { inode, origin }] of tree) {
    if (origin === 'directory') continue
    const group = names.get(inode)
    if (group === undefined) names.set(inode, [path])
    else group.push(path)
  }
  return new Map(
    [...names.values()]
      .filter((group) => group.length > 1)
      .flatMap((group) => group.map((path) => [path, group.toSorted().join(' ')] as const)),
  )
}
