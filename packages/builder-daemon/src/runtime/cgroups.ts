import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { kill, MNT_DETACH, umount2 } from '../system/processes.js'
import { hasErrno } from '../system/system-error.js'

export interface CgroupHierarchy {
  readonly path: string
  /** Empty for the unified hierarchy. */
  readonly controllers: readonly string[]
}

/** How this machine does cgroups. `none`: there are no, or they cannot be written. */
export interface Cgroups {
  readonly mode: 'v1' | 'v2' | 'hybrid' | 'none'
  readonly hierarchies: readonly CgroupHierarchy[]
  /** The number of processes of a cgroup can be limited. */
  readonly limitsProcesses: boolean
}

const noCgroups: Cgroups = { mode: 'none', hierarchies: [], limitsProcesses: false }

const SIGKILL = 9

/** From the text of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
export function parseCgroupMounts(mountinfo: string): Pick<Cgroups, 'mode' | 'hierarchies'> {
  const hierarchies = new Map<string, CgroupHierarchy>()
  for (const line of mountinfo.split('\n')) {
    const [left = '', right = ''] = line.split(' - ')
    const path = (left.split(' ')[4] ?? '').replace(/\\040/g, ' ')
    const [type, , options = ''] = right.split(' ')
    if (type === 'cgroup2') hierarchies.set(path, { path, controllers: [] })
    else if (type === 'cgroup') {
      const controllers = options.split(',').filter((option) => option !== 'rw' && option !== 'ro')
      hierarchies.set(path, { path, controllers })
    }
  }
  const all = [...hierarchies.values()]
  const unified = all.some(isUnified)
  const legacy = all.some((hierarchy) => !isUnified(hierarchy))
  const mode = unified ? (legacy ? 'hybrid' : 'v2') : legacy ? 'v1' : 'none'
  return { mode, hierarchies: all }
}

/** Of the legacy controllers: what counts and limits a RUN's processes, and what refuses devices to them. */
const neededControllers: readonly string[] = ['pids', 'devices']

/** Mount points of the legacy hierarchies that no RUN needs. */
export function unneededHierarchies({ hierarchies }: Pick<Cgroups, 'hierarchies'>): readonly string[] {
  return hierarchies
    .filter((hierarchy) => !isUnified(hierarchy))
    .filter(({ controllers }) => !controllers.some((name) => neededControllers.includes(name)))
    .map(({ path }) => path)
}

/**
 * Takes the legacy hierarchies that no RUN needs out of this mount namespace, which has to be the launcher's own. A
 * runtime makes a cgroup in every one it sees, and each is a wait for all processors. In those it does not see a RUN
 * stays where the daemon is: it has the daemon's share of the processors, not one against it, and its limits.
 */
export function hideUnneededHierarchies(): void {
  const found = parseCgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  for (const path of unneededHierarchies(found)) {
    try {
      umount2(bytesOfText(path), MNT_DETACH)
    } catch (error) {
      // Locked by the user namespace around us: then the runtime uses it as well.
      if (!hasErrno(error, 'EINVAL', 'EPERM')) throw error
    }
  }
}

const refusals = ['EROFS', 'EACCES', 'EPERM', 'ENOENT'] as const

/**
 * Finds the hierarchies and makes `parent` in them; `none` when that is refused where processes are counted. In the
 * others it is there so that nobody who ends removes the directory above, which several daemons share, under the feet
 * of a runtime that makes one in it.
 */
export function detectCgroups(parent: string): Cgroups {
  const found = parseCgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  const counting = countingHierarchies(found)
  if (counting.length === 0) return noCgroups
  for (const hierarchy of found.hierarchies) {
    try {
      makeDirectories(join(hierarchy.path, parent))
    } catch (error) {
      if (!hasErrno(error, ...refusals)) throw error
      if (counting.includes(hierarchy)) return noCgroups
    }
  }
  return { ...found, limitsProcesses: counting.some(hasPids) }
}

/** Again when somebody removed the directory above between the two steps. */
function makeDirectories(path: string): void {
  for (let attempt = 1; ; attempt += 1) {
    try {
      mkdirSync(path, { recursive: true })
      return
    } catch (error) {
      if (attempt === 5 || !hasErrno(error, 'ENOENT')) throw error
    }
  }
}

function isUnified(hierarchy: CgroupHierarchy): boolean {
  return hierarchy.controllers.length === 0
}

/** The root of the unified hierarchy lists the controllers that no legacy hierarchy has taken. */
function hasPids(hierarchy: CgroupHierarchy): boolean {
  if (!isUnified(hierarchy)) return hierarchy.controllers.includes('pids')
  return readFileSync(join(hierarchy.path, 'cgroup.controllers'), 'utf8').split(/\s+/).includes('pids')
}

function countingHierarchies(cgroups: Pick<Cgroups, 'mode' | 'hierarchies'>): readonly CgroupHierarchy[] {
  if (cgroups.mode === 'v2') return cgroups.hierarchies.filter(isUnified)
  return cgroups.hierarchies.filter((hierarchy) => hierarchy.controllers.includes('pids'))
}

/** Where the cgroup exists, in every hierarchy. */
export function cgroupDirectories(cgroups: Cgroups, path: string): readonly string[] {
  return cgroups.hierarchies
    .map((hierarchy) => join(hierarchy.path, path))
    .filter((directory) => existsSync(directory))
}

/** Where the cgroup exists in a hierarchy that counts processes: all of a container that cannot write cgroups. */
export function countingDirectories(cgroups: Cgroups, path: string): readonly string[] {
  return cgroupDirectories({ ...cgroups, hierarchies: countingHierarchies(cgroups).slice(0, 1) }, path)
}

/**
 * Makes a cgroup with a limit of processes for a container that no OCI runtime sets up. A process
 * joins by writing 0 to `cgroup.procs` in each of the returned directories.
 */
export function createCgroup(cgroups: Cgroups, path: string, pids: number): readonly string[] {
  const wanted = ['pids', 'freezer', 'memory']
  const used = cgroups.hierarchies.filter(
    (hierarchy) => isUnified(hierarchy) || hierarchy.controllers.some((name) => wanted.includes(name)),
  )
  return used.map((hierarchy) => {
    const directory = join(hierarchy.path, path)
    if (cgroups.mode === 'v2') delegatePids(hierarchy.path, path)
    mkdirSync(directory, { recursive: true })
    const limit = join(directory, 'pids.max')
    if (existsSync(limit)) writeFileSync(limit, String(pids))
    return directory
  })
}

// Controllers reach a cgroup only when every ancestor hands them down (cgroup-v2 "Enabling and Disabling").
function delegatePids(root: string, path: string): void {
  let directory = root
  for (const part of path.split('/').filter((name) => name !== '')) {
    const control = join(directory, 'cgroup.subtree_control')
    try {
      if (!readFileSync(control, 'utf8').split(/\s+/).includes('pids')) writeFileSync(control, '+pids')
    } catch (error) {
      // A cgroup that has processes of its own cannot hand controllers down; the RUN goes on without the limit.
      if (!hasErrno(error, 'EBUSY', 'ENOENT', 'EOPNOTSUPP', 'ENOTSUP', 'EINVAL')) throw error
      return
    }
    directory = join(directory, part)
    mkdirSync(directory, { recursive: true })
  }
}

/**
 * Whoever joins a cgroup waits until every processor knows of it, some milliseconds, unless somebody joined one a moment
 * ago. What is returned has this process join its own anew, on a thread of libuv's, while a container that is to join one
 * is still being prepared.
 */
export function joinsExpected(cgroups: Cgroups): () => Promise<void> {
  const [hierarchy] = countingHierarchies(cgroups)
  let known: string | undefined
  return async () => {
    if (hierarchy === undefined) return
    const own = ownCgroup(readFileSync('/proc/self/cgroup', 'utf8'), hierarchy)
    if (own === undefined) return
    const directory = join(hierarchy.path, own)
    // In a cgroup namespace the path may name another one, which must not be joined.
    if (directory !== known && !members(directory).includes(process.pid)) return
    known = directory
    // It may be refused; the container waits for itself then.
    await writeFile(join(directory, 'cgroup.procs'), '0', { flag: 'r+' }).catch(() => undefined)
  }
}

/** This process's path in the hierarchy, from the text of /proc/self/cgroup (cgroups(7)). */
export function ownCgroup(
  text: string,
  { controllers }: Pick<CgroupHierarchy, 'controllers'>,
): string | undefined {
  for (const line of text.split('\n')) {
    const [, names = '', ...path] = line.split(':')
    const listed = names === '' ? [] : names.split(',')
    if (
      path.length > 0 &&
      listed.length === controllers.length &&
      listed.every((name) => controllers.includes(name))
    )
      return path.join(':')
  }
  return undefined
}

function below(directory: string): readonly string[] {
  let names: readonly string[]
  try {
    names = readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENODEV')) return []
    throw error
  }
  return [...names.flatMap((name) => below(join(directory, name))), directory]
}

function members(directory: string): readonly number[] {
  try {
    const text = readFileSync(join(directory, 'cgroup.procs'), 'utf8')
    return text
      .split('\n')
      .map(Number)
      .filter((pid) => pid > 0)
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP')) return []
    throw error
  }
}

/** Processes in the cgroup and those below it. */
export function cgroupMembers(directories: readonly string[]): readonly number[] {
  return [...new Set(directories.flatMap(below).flatMap(members))]
}

/**
 * Kills everything in the cgroup, forks included: at once where the kernel has cgroup.kill (5.14),
 * else again and again until nothing is left. False when something is still there after `timeout` ms.
 */
export async function killCgroup(directories: readonly string[], timeout: number): Promise<boolean> {
  const all = directories.flatMap(below)
  for (const directory of all) {
    const file = join(directory, 'cgroup.kill')
    try {
      if (existsSync(file)) writeFileSync(file, '1')
    } catch (error) {
      if (!hasErrno(error, 'ENOENT', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP')) throw error
    }
  }
  let pause = 1
  for (let waited = 0; ; waited += pause) {
    const pids = cgroupMembers(directories)
    if (pids.length === 0) return true
    for (const pid of pids) kill(pid, SIGKILL)
    if (waited >= timeout) return false
    pause = Math.min(50, pause * 2)
    await sleep(pause)
  }
}

/** Removes emptied cgroups, wherever they are; the kernel may need a moment after the last process. */
export async function removeCgroup(cgroups: Cgroups, path: string): Promise<boolean> {
  // Most often there is nothing below, and asking first costs more than all else.
  const directories = cgroups.hierarchies.map((hierarchy) => join(hierarchy.path, path))
  let pending = directories.filter((directory) => !removed(directory)).flatMap(below)
  for (let attempt = 0; attempt < 12; attempt += 1) {
    pending = pending.filter((directory) => !removed(directory))
    if (pending.length === 0) return true
    await sleep(Math.min(100, 2 ** attempt))
  }
  return false
}

function removed(directory: string): boolean {
  try {
    rmdirSync(directory)
    return true
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return true
    if (hasErrno(error, 'EBUSY', 'ENOTEMPTY')) return false
    throw error
  }
}

/** Removes `parent` and what is above it as far as it is empty. */
export function removeCgroupParents(cgroups: Cgroups, parent: string): void {
  const parts = parent.split('/').filter((part) => part !== '')
  for (const hierarchy of cgroups.hierarchies) {
    for (let depth = parts.length; depth > 0; depth -= 1) {
      const directory = join(hierarchy.path, ...parts.slice(0, depth))
      if (!removed(directory)) break
    }
  }
}
