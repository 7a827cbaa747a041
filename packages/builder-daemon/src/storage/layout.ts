import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { LayerId } from '../ports/layer-store.js'
import { reportsEntryTypes } from '../system/directory-types.js'
import { lsetxattr } from '../system/extended-attributes.js'
import { hasErrno } from '../system/system-error.js'

/** Names of everything below the data root. All paths are absolute. */
export interface Layout {
  readonly dataRoot: string
  readonly lock: string
  readonly version: string
  readonly databaseDirectory: string
  readonly database: string
  readonly backups: string
  /** One file per image: what is needed to find it again when the database is lost. */
  readonly blobs: string
  readonly layers: string
  readonly links: string
  readonly staging: string
  readonly trash: string
  /** Blobs on their way in or out, below the uid of whose they are. */
  readonly downloads: string
}

const layoutVersion = 1

export function layoutOf(dataRoot: string): Layout {
  const root = resolve(dataRoot)
  return {
    dataRoot: root,
    lock: join(root, 'lock'),
    version: join(root, 'layout-version'),
    databaseDirectory: join(root, 'db'),
    database: join(root, 'db', 'store.sqlite'),
    backups: join(root, 'db', 'backup'),
    blobs: join(root, 'blobs'),
    layers: join(root, 'layers'),
    links: join(root, 'l'),
    staging: join(root, 'staging'),
    trash: join(root, 'trash'),
    downloads: join(root, 'downloads'),
  }
}

export function layerDirectory(layout: Layout, id: LayerId): string {
  return join(layout.layers, id)
}

/** 48 random bits of the ID in 8 characters, none of which overlayfs or a shell treats specially. */
export function linkName(id: LayerId): string {
  return Buffer.from(id.slice(0, 12), 'hex').toString('base64url')
}

/** What a short link points to, relative to `l/`. */
export function linkTarget(id: LayerId): string {
  return `../layers/${id}/diff`
}

export function isLayerId(name: string): name is LayerId {
  return /^[0-9a-f]{32}$/.test(name)
}

/** File systems that lose data, lock badly or cannot carry an overlay (statfs(2) f_type). */
const unfit = new Map<number, string>([
  [0x01021994, 'tmpfs'],
  [0x858458f6, 'ramfs'],
  [0x6969, 'NFS'],
  [0x794c7630, 'overlayfs'],
  [0xff534d42, 'CIFS'],
  [0xfe534d42, 'SMB2'],
  [0x01021997, '9p'],
  [0x65735546, 'FUSE'],
  [0xf15f, 'eCryptfs'],
  [0x0bd00bd0, 'Lustre'],
  [0x5346414f, 'AFS'],
  [0x00c36400, 'Ceph'],
])

function refuse(layout: Layout, reason: string): never {
  throw new BuilderError('ISB_CONFIG_INVALID', `the data root ${layout.dataRoot} cannot be used: ${reason}`, {
    hint: 'Set the data root to a directory on a local ext4, xfs (ftype=1) or btrfs file system.',
  })
}

/** Fails with ISB_CONFIG_INVALID, before anything is written, when the file system below cannot hold a store. */
export function checkFileSystem(layout: Layout): void {
  let existing = layout.dataRoot
  while (!existsSync(existing)) existing = dirname(existing)
  const name = unfit.get(statfsSync(existing).type >>> 0)
  if (name !== undefined) refuse(layout, `it is on ${name}`)
}

/** What a data root holds before anything else: of this program, and of the original's. */
const ownEntries = ['layout-version', 'lock', 'storage']

/**
 * Creates the data root itself, so that it can be locked. A directory with anybody else's content is refused:
 * closing it to all but root (think of `--dataroot /home`) would lock its users out.
 */
export function makeDataRoot(layout: Layout): void {
  try {
    mkdirSync(layout.dataRoot, { recursive: true, mode: 0o700 })
  } catch (error) {
    refuse(layout, (error as Error).message)
  }
  if (!isRealDirectory(layout.dataRoot)) refuse(layout, 'it is not a directory')
  // A file system of its own comes with a directory for what fsck(8) finds.
  const entries = readdirSync(layout.dataRoot).filter((name) => name !== 'lost+found')
  if (entries.length > 0 && !entries.some((name) => ownEntries.includes(name))) {
    refuse(layout, 'it is not empty and holds no store')
  }
  chmodSync(layout.dataRoot, 0o700)
}

/**
 * Creates what is missing below a locked data root. Fails with ISB_UNSUPPORTED when a newer
 * isula-builder laid it out, with ISB_CONFIG_INVALID when overlayfs could not work on it.
 */
export function prepareLayout(layout: Layout): void {
  checkVersion(layout)
  const directories = [layout.databaseDirectory, layout.backups, layout.blobs, layout.layers, layout.links]
  const device = lstatSync(layout.dataRoot).dev
  for (const directory of [...directories, layout.staging, layout.trash, layout.downloads]) {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    if (!isRealDirectory(directory)) refuse(layout, `${directory} is not a directory`)
    // Publishing and removing are renames.
    if (lstatSync(directory).dev !== device) refuse(layout, `${directory} is on another file system`)
  }
  // A store that is there was checked when it was made, and must open on a full disk too.
  if (existsSync(layout.version)) return
  checkAbilities(layout)
  writeFileSync(`${layout.version}.tmp`, `${layoutVersion}\n`, { mode: 0o600, flush: true })
  renameSync(`${layout.version}.tmp`, layout.version)
}

function checkVersion(layout: Layout): void {
  if (!existsSync(layout.version)) return
  const text = readFileSync(layout.version, 'utf8').trim()
  // A power cut may leave a fresh file empty; the first version is the only one that could be meant.
  if (text === '' || text === String(layoutVersion)) return
  throw new BuilderError(
    'ISB_UNSUPPORTED',
    `the data root ${layout.dataRoot} has layout ${JSON.stringify(text)}, this isula-builder knows ${layoutVersion}`,
    { hint: 'Run the newer isula-builder that wrote it, or use another data root.' },
  )
}

function checkAbilities(layout: Layout): void {
  const probe = join(layout.staging, '.probe')
  rmSync(probe, { recursive: true, force: true })
  mkdirSync(join(probe, 'entry'), { recursive: true })
  try {
    lsetxattr(probe, 'trusted.isula.probe', Buffer.from('1'))
    if (!reportsEntryTypes(probe)) refuse(layout, 'its file system reports no entry types (d_type)')
  } catch (error) {
    if (hasErrno(error, 'ENOTSUP', 'EOPNOTSUPP'))
      refuse(layout, 'its file system has no trusted extended attributes')
    if (hasErrno(error, 'EPERM', 'EACCES')) {
      throw new BuilderError('ISB_PERMISSION_DENIED', `the store in ${layout.dataRoot} needs root`, {
        cause: error,
      })
    }
    throw error
  } finally {
    rmSync(probe, { recursive: true, force: true })
  }
}

/** A directory itself, not a link to one; false when there is nothing. */
export function isRealDirectory(path: string): boolean {
  try {
    return lstatSync(path).isDirectory()
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return false
    throw error
  }
}

/** Names in a directory of the store. */
export function namesIn(directory: string): string[] {
  return readdirSync(directory)
}
