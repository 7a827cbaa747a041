import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import { checked, cString, libc } from './libc.js'

/**
 * What a file system means for whoever uses a file of it. `local` answers by itself, `remote` may
 * wait for a network, `user` for a process of any user (FUSE), `kernel` has no files but knobs.
 */
export type FileSystemKind = 'local' | 'remote' | 'user' | 'kernel'

const types: Readonly<Record<Exclude<FileSystemKind, 'user'>, ReadonlySet<string>>> = {
  local: set(
    'bcachefs btrfs cramfs devtmpfs erofs exfat ext2 ext3 ext4 f2fs hfs hfsplus hugetlbfs iso9660 jfs ' +
      'minix nilfs2 ntfs3 overlay ramfs reiserfs romfs rootfs squashfs tmpfs udf ufs vfat xfs zfs zonefs',
  ),
  remote: set('9p afs beegfs ceph cifs coda glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 smb3 virtiofs'),
  kernel: set(
    'anon_inodefs autofs bdev binder binfmt_misc bpf cgroup cgroup2 configfs cpuset debugfs devpts ' +
      'efivarfs fusectl mqueue nfsd nsfs pidfs pipefs proc pstore resctrl rpc_pipefs securityfs ' +
      'selinuxfs smackfs sockfs sysfs tracefs xenfs',
  ),
}

function set(names: string): ReadonlySet<string> {
  return new Set(names.split(' '))
}

/** By name as in /proc/filesystems; what nobody knows is as bad as FUSE. */
export function kindOfFileSystem(type: string): FileSystemKind {
  if (types.local.has(type)) return 'local'
  if (types.kernel.has(type)) return 'kernel'
  return types.remote.has(type) ? 'remote' : 'user'
}

/**
 * Finds out the kind without asking the file system itself: fstatfs(2) on a hanging FUSE mount hangs
 * as well. A mount that this process does not see counts as `user`. What was found is remembered for
 * the life of the finder, which should be short: numbers of mounts are used again.
 */
export function createFileSystemFinder(): (fd: number) => FileSystemKind {
  const typeOf = createTypeFinder()
  return (fd) => {
    const type = typeOf(fd)
    return type === undefined ? 'user' : kindOfFileSystem(type)
  }
}

/** The same for the type's name as in /proc/filesystems; undefined for a mount this process does not see. */
export function createTypeFinder(): (fd: number) => string | undefined {
  const types = new Map<string, string>()
  return (fd) => {
    const mount = mountOf(fd)
    const known = types.get(mount)
    if (known !== undefined) return known
    for (const [id, type] of readMounts()) types.set(id, type)
    return types.get(mount)
  }
}

const changeTimes = new Set('ext2 ext3 ext4 xfs btrfs f2fs'.split(' '))
/** Only since Linux 6.1 does tmpfs count a changed extended attribute; an overlay may lie on one. */
const laterChangeTimes = new Set(['tmpfs', 'overlay'])

/** Whether every change of a file's bytes, mode, owner or attributes moves its ctime, for good. */
export function keepsChangeTimes(type: string, kernel = release()): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10))
  return changeTimes.has(type) || (laterChangeTimes.has(type) && (major > 6 || (major === 6 && minor >= 1)))
}

const statx = libc('int statx(int, const void *, int, uint, void *)')
const AT_EMPTY_PATH = 0x1000
const AT_STATX_DONT_SYNC = 0x4000
const STATX_MNT_ID = 0x1000
const record = Buffer.alloc(256)

/** stx_mnt_id (Linux 5.8), before that the descriptor's entry in procfs. */
function mountOf(fd: number): string {
  const flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
  checked(statx(fd, cString('', 'statx'), flags, STATX_MNT_ID, record), 'statx')
  if ((record.readUInt32LE(0) & STATX_MNT_ID) !== 0) return String(record.readBigUInt64LE(144))
  const [, id = ''] = /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? []
  return id
}

function* readMounts(): Iterable<readonly [string, string]> {
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const [before = '', after = ''] = line.split(' - ', 2)
    const id = before.slice(0, before.indexOf(' '))
    const [type = ''] = after.split(' ')
    if (id !== '') yield [id, type]
  }
}
