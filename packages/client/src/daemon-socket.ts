import { lstatSync, readFileSync, statSync } from 'node:fs'
import { userInfo } from 'node:os'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Path of the socket that `host` names. Fails with ISB_DAEMON_UNREACHABLE. */
export function socketPath(host: string): string {
  const path = host.startsWith('unix://') ? host.slice('unix://'.length) : ''
  if (path.startsWith('/')) return path
  throw invalidSocket(host, 'Name the socket as unix:///PATH.')
}

/** Why nobody answers at `path`; `code` is what connecting failed with, if it did. */
export function unreachable(path: string, code: string | undefined): BuilderError {
  return noSocket(path) ?? silent(path, code)
}

/** What is wrong with the path itself. Only looked at when it cannot be connected to: mostly it can. */
function noSocket(path: string): BuilderError | undefined {
  const host = `unix://${path}`
  try {
    if (statSync(path).isSocket()) return undefined
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EACCES') return cannotConnect(path, 'permission denied', deniedHint(path))
    if (code !== 'ENOENT' && code !== 'ENOTDIR') return invalidSocket(host, (error as Error).message)
    return invalidSocket(
      host,
      'Start the daemon (systemctl start isula-build), or name its socket with --host or ISULABUILD_HOST.',
    )
  }
  return invalidSocket(host, 'There is another file at this path.')
}

function invalidSocket(host: string, hint: string): BuilderError {
  return new BuilderError('ISB_DAEMON_UNREACHABLE', `invalid socket path: ${host}`, { hint })
}

function silent(path: string, code: string | undefined): BuilderError {
  switch (code) {
    case undefined:
      return cannotConnect(
        path,
        'it took the connection but did not answer in time',
        'Look at its log (journalctl -u isula-build), or wait longer with --timeout.',
      )
    case 'EACCES':
    case 'EPERM':
      return cannotConnect(path, 'permission denied', deniedHint(path))
    case 'ECONNREFUSED':
      return cannotConnect(path, 'connection refused', 'Start the daemon: systemctl start isula-build')
    case 'EAGAIN':
      return cannotConnect(path, 'too many connections wait for it', 'Try again when it is less busy.')
    default:
      return cannotConnect(path, 'it cannot be connected to', 'Start the daemon: systemctl start isula-build')
  }
}

function cannotConnect(path: string, reason: string, hint: string): BuilderError {
  return new BuilderError(
    'ISB_DAEMON_UNREACHABLE',
    `Cannot connect to the isula-builder at unix://${path}. Is the isula-builder running?\nError: ${reason}`,
    { hint },
  )
}

function deniedHint(path: string): string {
  try {
    const group = groupName(lstatSync(path).gid)
    const { username } = userInfo()
    return `Only root and the group ${group} may use it: usermod -aG ${group} ${username}, then log in again.`
  } catch {
    // Neither the socket nor this account has to be visible; the general advice stays.
    return 'This account may not search the directory of the socket; ask an administrator.'
  }
}

function groupName(gid: number): string {
  for (const line of readFileSync('/etc/group', 'utf8').split('\n')) {
    const [name, , id] = line.split(':')
    if (name !== undefined && id === String(gid)) return name
  }
  return String(gid)
}
