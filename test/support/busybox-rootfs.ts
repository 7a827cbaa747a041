import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Makes `DIRECTORY/busybox.tar`: a root file system of the distribution's static busybox with all its applets,
 * and what `furnish` adds.
 */
export function makeBusyboxTar(directory: string, furnish: (root: string) => void = () => undefined): string {
  const root = join(directory, 'busybox-root')
  for (const name of ['bin', 'etc', 'proc', 'root', 'tmp']) mkdirSync(join(root, name), { recursive: true })
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path))
  if (busybox === undefined) throw new Error('busybox is not installed')
  copyFileSync(busybox, join(root, 'bin/busybox'))
  const applets = spawnSync(busybox, ['--list'], { encoding: 'utf8' }).stdout.trim().split('\n')
  for (const name of applets) if (name !== 'busybox') symlinkSync('busybox', join(root, 'bin', name))
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\n')
  furnish(root)
  const path = join(directory, 'busybox.tar')
  const how = ['--owner=0', '--group=0', '--format=pax', '--xattrs', '--xattrs-include=*']
  const { status, stderr } = spawnSync('tar', ['-C', root, ...how, '-cf', path, '.'], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`tar failed: ${stderr}`)
  return path
}
