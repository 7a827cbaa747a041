import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { hasErrno } from '../system/system-error.js'

const limit = 1024 * 1024

/** A small regular file of the host; '' when there is none, cut at 1 MiB. */
function hostFile(path: string): string {
  let fd: number
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return ''
    throw error
  }
  try {
    if (!fstatSync(fd).isFile()) return ''
    const chunk = Buffer.allocUnsafe(64 * 1024)
    let text = ''
    while (text.length < limit) {
      const count = readSync(fd, chunk, 0, Math.min(chunk.length, limit - text.length), null)
      if (count === 0) break
      text += chunk.toString('latin1', 0, count)
    }
    return text
  } finally {
    closeSync(fd)
  }
}

/**
 * /etc/hosts and /etc/resolv.conf of a container. On the host's network they are the host's, with
 * the container's own name added; without a network there is nobody to ask. latin1 text.
 */
export function networkFiles(
  network: 'host' | 'none',
  hostname: string,
  read: (path: string) => string = hostFile,
): { readonly hosts: string; readonly resolvConf: string } {
  const own = '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n'
  const named = `127.0.0.1\t${hostname}\n`
  if (network === 'none') return { hosts: own + named, resolvConf: '' }
  const hosts = read('/etc/hosts')
  const base = hosts === '' ? own : hosts
  const known = base
    .split('\n')
    .some((line) => line.replace(/#.*/, '').split(/\s+/).slice(1).includes(hostname))
  const separator = base.endsWith('\n') ? '' : '\n'
  return {
    hosts: known ? base : `${base}${separator}${named}`,
    resolvConf: read('/etc/resolv.conf'),
  }
}
