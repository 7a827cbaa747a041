import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'

/** What RUNs of a run root have on this machine right now, as an outsider sees it. */
export interface Leftovers {
  /** In the RUNs' cgroups. */
  readonly processes: readonly number[]
  /** Of this process's mount namespace and the launcher's, below the run root but for its memory file system. */
  readonly mounts: readonly string[]
  readonly cgroups: readonly string[]
  /** What the launcher has written down. */
  readonly runs: readonly string[]
}

export function leftovers(runRoot: string): Leftovers {
  const root = realpathSync(runRoot)
  const cgroups = cgroupDirectories(root)
  const processes = new Set(cgroups.flatMap(members))
  const records = join(root, 'runtime/records')
  const runs = existsSync(records) ? readdirSync(records) : []
  return { processes: [...processes].sort((a, b) => a - b), mounts: mountsBelow(root), cgroups, runs }
}

function cgroupDirectories(root: string): readonly string[] {
  const parent = `isula-build/${createHash('sha256').update(root).digest('hex').slice(0, 12)}`
  return [
    '',
    'unified',
    'pids',
    'freezer',
    'memory',
    'devices',
    'cpu',
    'systemd',
    'blkio',
    'cpuset',
    'cpuacct',
  ]
    .map((name) => join('/sys/fs/cgroup', name, parent))
    .filter((directory) => existsSync(directory))
    .flatMap((directory) =>
      readdirSync(directory, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => join(directory, entry.name)),
    )
}

function members(directory: string): readonly number[] {
  try {
    const text = readFileSync(join(directory, 'cgroup.procs'), 'utf8')
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map(Number)
  } catch {
    return []
  }
}

/** Every mount namespace that has something below `root` is one too many, whoever's it is. */
function mountsBelow(root: string): readonly string[] {
  const found = new Set<string>()
  for (const pid of readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
    try {
      for (const line of readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n')) {
        const place = line.split(' ')[4]
        if (place?.startsWith(`${root}/runtime/memory/`) === true) found.add(place)
      }
    } catch {
      // The process has ended meanwhile.
    }
  }
  return [...found].sort()
}
