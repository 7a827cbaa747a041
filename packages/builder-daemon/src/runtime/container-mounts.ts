import { existsSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { AT_FDCWD } from '../system/libc.js'
import {
  MNT_DETACH,
  MS_BIND,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  MS_REMOUNT,
  mount,
  umount2,
} from '../system/processes.js'
import { fchmodat, mknodat, S_IFCHR } from '../system/syscalls.js'
import type { ContainerRequest } from './chroot-container.js'

const closed = MS_NOSUID | MS_NODEV | MS_NOEXEC

/** /proc, /sys and /dev of a container in its own namespaces, with what is masked and read-only. */
export function mountSystem({ rootfs, process: wanted }: ContainerRequest): void {
  const at = (path: string): string => bytesOfText(join(rootfs, path))
  mountDevices(rootfs, wanted.sharedMemorySize)
  mount('proc', at('proc'), 'proc', closed)
  mount('sysfs', at('sys'), 'sysfs', closed | (wanted.writableSysfs ? 0 : MS_RDONLY))
  for (const path of wanted.readonlyPaths) {
    if (!existsSync(join(rootfs, path))) continue
    mount(at(path), at(path), '', MS_BIND)
    mount('', at(path), '', MS_REMOUNT | MS_BIND | MS_RDONLY | closed)
  }
  for (const path of wanted.maskedPaths) {
    const kind = statSync(join(rootfs, path), { throwIfNoEntry: false })
    if (kind === undefined) continue
    if (kind.isDirectory()) mount('tmpfs', at(path), 'tmpfs', closed | MS_RDONLY, 'size=0')
    else mount(at('dev/null'), at(path), '', MS_BIND)
  }
}

/** Name, major and minor (kernel devices.txt). */
const devices: readonly (readonly [string, number, number])[] = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
]

/**
 * The nodes lie on a file system nobody in the container can reach and are bound into a /dev where
 * devices do not work: new nodes cannot be used, and a chmod never changes the host's own.
 */
function mountDevices(rootfs: string, sharedMemorySize: string): void {
  const nodes = bytesOfText(join(rootfs, 'proc'))
  const dev = bytesOfText(join(rootfs, 'dev'))
  mount('tmpfs', nodes, 'tmpfs', MS_NOSUID | MS_NOEXEC, 'mode=700,size=64k')
  mount('tmpfs', dev, 'tmpfs', MS_NOSUID | MS_NODEV, 'mode=755,size=65536k')
  for (const [name, major, minor] of devices) {
    mknodat(AT_FDCWD, `${nodes}/${name}`, S_IFCHR | 0o666, major, minor)
    fchmodat(AT_FDCWD, `${nodes}/${name}`, 0o666)
    writeFileSync(join(rootfs, 'dev', name), '')
    mount(`${nodes}/${name}`, `${dev}/${name}`, '', MS_BIND)
  }
  umount2(nodes, MNT_DETACH)
  for (const name of ['pts', 'shm', 'mqueue']) mkdirSync(join(rootfs, 'dev', name), { mode: 0o755 })
  const terminals = 'newinstance,ptmxmode=0666,mode=0620,gid=5'
  mount('devpts', `${dev}/pts`, 'devpts', MS_NOSUID | MS_NOEXEC, terminals)
  mount('shm', `${dev}/shm`, 'tmpfs', closed, `mode=1777,size=${sharedMemorySize}`)
  mount('mqueue', `${dev}/mqueue`, 'mqueue', closed)
  const links = { ptmx: 'pts/ptmx', fd: '/proc/self/fd', core: '/proc/kcore' }
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(rootfs, 'dev', name))
  for (const [fd, name] of ['stdin', 'stdout', 'stderr'].entries()) {
    symlinkSync(`/proc/self/fd/${fd}`, join(rootfs, 'dev', name))
  }
}
