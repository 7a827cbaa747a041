import { closeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { ResolveUserParams, ResolveUserResult } from '../ports/layer-worker.js'
import { type MergedLayers, openMerged } from '../system/detached-overlay.js'
import { createLayerStack, type LayerStack } from '../system/layer-stack.js'
import { AT_FDCWD } from '../system/libc.js'
import { parentOf, readInRoot, readUpTo } from '../system/rooted.js'
import { O_NOFOLLOW, O_RDONLY, openat } from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'

const MAX_FILE_BYTES = 1 << 20
/** As docker and runc: identities are at most 2^31 - 1. */
const MAX_ID = 0x7fff_ffff

interface PasswdEntry {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
}

interface GroupEntry {
  readonly name: string
  readonly gid: number
  readonly members: readonly string[]
}

/** Who `user` (`user[:group]`, as USER takes it) is in the image whose layers these are, top first. */
export function resolveUserJob(params: ResolveUserParams): ResolveUserResult {
  let layers: MergedLayers | undefined
  const stack = createLayerStack(params.lowers)
  try {
    return resolveWith((path) => {
      const place = plainFile(stack, path)
      if (place === 'none') return undefined
      if (place !== undefined) return readFile(place, path)
      layers ??= openMerged(params.lowers)
      return readInRoot(layers.fd, path, MAX_FILE_BYTES)
    }, params.user)
  } finally {
    layers?.close()
  }
}

/** Where the file is, when no link is on the way and it is a regular one. */
function plainFile(stack: LayerStack, path: string): string | 'none' | undefined {
  const parent = stack.look(parentOf(path))
  const found = stack.look(path)
  if (parent?.stat?.type === 'symlink' || found === undefined) return undefined
  if (found.stat === undefined) return 'none'
  return found.stat.type === 'file' ? found.place : undefined
}

function readFile(place: string, path: string): Buffer {
  const fd = openat(AT_FDCWD, place, O_RDONLY | O_NOFOLLOW)
  try {
    return readUpTo(fd, MAX_FILE_BYTES, path)
  } finally {
    closeSync(fd)
  }
}

/** Content of a file of the image; undefined when there is none. Fails as `readInRoot` does. */
type ReadFile = (path: string) => Buffer | undefined

/**
 * As docker and runc resolve USER: names and numbers are looked up in /etc/passwd and /etc/group
 * inside `rootFd`; '' is root. A number without entry stands for itself with group 0; a name without
 * entry fails with ISB_ARGUMENT_INVALID. Without a group, the user's supplementary groups apply;
 * `additionalGids` begins with the primary group.
 */
export function resolveUser(rootFd: number, user: string): ResolveUserResult {
  return resolveWith((path) => readInRoot(rootFd, path, MAX_FILE_BYTES), user)
}

function resolveWith(read: ReadFile, user: string): ResolveUserResult {
  const { userPart, groupPart } = split(user)
  const wanted = userPart === '' ? '0' : userPart
  const uid = parseId(wanted, user)
  const entries = passwdEntries(read)
  const found = entries.find((entry) => (uid === undefined ? entry.name === wanted : entry.uid === uid))
  if (found === undefined && uid === undefined) throw unknown('user', wanted, '/etc/passwd')
  const base = {
    uid: found?.uid ?? uid ?? 0,
    home: found === undefined || found.home === '' ? '/' : textOfBytes(found.home),
  }
  if (groupPart !== undefined && groupPart !== '') {
    const gid = resolveGroup(read, groupPart, user)
    return { ...base, gid, additionalGids: [gid] }
  }
  const gid = found?.gid ?? 0
  const groups =
    found === undefined ? [] : groupEntries(read).filter(({ members }) => members.includes(found.name))
  return { ...base, gid, additionalGids: [...new Set([gid, ...groups.map((group) => group.gid)])] }
}

/**
 * As BuildKit resolves COPY --chown: like USER, but a number without a group is its own group, and
 * files are not looked at for numbers.
 */
export function resolveOwner(rootFd: number, chown: string): { readonly uid: number; readonly gid: number } {
  const read: ReadFile = (path) => readInRoot(rootFd, path, MAX_FILE_BYTES)
  const { userPart, groupPart } = split(chown)
  const uid = parseId(userPart, chown)
  let owner = { uid: uid ?? 0, gid: uid ?? 0 }
  if (uid === undefined && userPart !== '') {
    const found = passwdEntries(read).find(({ name }) => name === userPart)
    if (found === undefined) throw unknown('user', userPart, '/etc/passwd')
    owner = { uid: found.uid, gid: found.gid }
  }
  if (groupPart === undefined || groupPart === '') return owner
  return { uid: owner.uid, gid: resolveGroup(read, groupPart, chown) }
}

function split(user: string): { readonly userPart: string; readonly groupPart: string | undefined } {
  const bytes = Buffer.from(user, 'utf8').toString('latin1')
  const colon = bytes.indexOf(':')
  if (colon < 0) return { userPart: bytes, groupPart: undefined }
  return { userPart: bytes.slice(0, colon), groupPart: bytes.slice(colon + 1) }
}

function resolveGroup(read: ReadFile, group: string, given: string): number {
  const gid = parseId(group, given)
  if (gid !== undefined) return gid
  const found = groupEntries(read).find(({ name }) => name === group)
  if (found === undefined) throw unknown('group', group, '/etc/group')
  return found.gid
}

/** undefined for a name. */
function parseId(text: string, given: string): number | undefined {
  if (!/^[0-9]+$/.test(text)) return undefined
  const id = Number(text)
  if (id <= MAX_ID) return id
  throw new BuilderError('ISB_ARGUMENT_INVALID', `"${given}": user and group numbers end at ${MAX_ID}`)
}

function unknown(kind: 'user' | 'group', name: string, file: string): BuilderError {
  const shown = textOfBytes(name)
  return new BuilderError('ISB_ARGUMENT_INVALID', `the image has no ${kind} "${shown}" in ${file}`, {
    hint: `Create the ${kind} in the image first, or give its number.`,
  })
}

function linesOf(read: ReadFile, path: string): string[] {
  let content: Buffer | undefined
  try {
    content = read(path)
  } catch (cause) {
    if (hasErrno(cause, 'EFBIG')) throw unusable(path, 'is larger than 1 MiB', cause)
    if (hasErrno(cause, 'ENXIO')) throw unusable(path, 'is no regular file', cause)
    if (hasErrno(cause, 'ELOOP')) throw unusable(path, 'is a symbolic link that leads nowhere', cause)
    throw cause
  }
  return content === undefined ? [] : content.toString('latin1').split('\n')
}

function unusable(path: string, reason: string, cause: unknown): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `cannot look up users: /${path} of the image ${reason}`, {
    cause,
  })
}

// As runc's parser: no fields but the first are required, a bad number counts as 0.
function fieldsOf(read: ReadFile, path: string): string[][] {
  return linesOf(read, path)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'))
}

function number(text: string | undefined): number {
  const value = /^[0-9]{1,10}$/.test(text ?? '') ? Number(text) : 0
  return value <= MAX_ID ? value : 0
}

function passwdEntries(read: ReadFile): PasswdEntry[] {
  return fieldsOf(read, 'etc/passwd').map((fields) => ({
    name: fields[0] ?? '',
    uid: number(fields[2]),
    gid: number(fields[3]),
    home: fields[5] ?? '',
  }))
}

function groupEntries(read: ReadFile): GroupEntry[] {
  return fieldsOf(read, 'etc/group').map((fields) => ({
    name: fields[0] ?? '',
    gid: number(fields[2]),
    members: (fields[3] ?? '').split(',').filter((name) => name !== ''),
  }))
}
