import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { join } from 'node:path'

const ownPid = String(process.pid)

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    // The process has ended meanwhile, or is of the kernel.
    return ''
  }
}

function namesOf(directory: string): readonly string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/** Processes but this one that have a working directory, a root, a mapped or an open file below `directory`. */
export function processesUsing(directory: string): readonly number[] {
  const root = realpathSync(directory)
  const isBelow = (path: string): boolean => path === root || path.startsWith(`${root}/`)
  return namesOf('/proc')
    .filter((name) => /^[0-9]+$/.test(name) && name !== ownPid)
    .filter((pid) => {
      const places = ['cwd', 'root', ...namesOf(`/proc/${pid}/fd`).map((fd) => `fd/${fd}`)]
      return places.some((place) => isBelow(linkOf(join('/proc', pid, place))))
    })
    .map(Number)
}

/** Processes with this word in their command line. */
export function processesNamed(word: string): readonly number[] {
  return namesOf('/proc')
    .filter((name) => /^[0-9]+$/.test(name) && name !== ownPid)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(word)
      } catch {
        return false
      }
    })
    .map(Number)
}

/** Mounts below `directory` in the mount namespace of this process. */
export function mountsBelow(directory: string): readonly string[] {
  const root = realpathSync(directory)
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((place) => place.startsWith(`${root}/`))
}
