import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { kill } from '../system/processes.js'
import { hasErrno } from '../system/system-error.js'
import { type Cgroups, cgroupDirectories, killCgroup, removeCgroup } from './cgroups.js'
import { type LauncherSettings, launcherPaths } from './launcher-protocol.js'

const SIGKILL = 9
/** Milliseconds until processes that do not die (a hung network file system) are given up. */
export const killTimeout = 10_000

/**
 * Ends what an earlier launcher of the same run root left: it died, and its mounts with it, but its
 * containers did not. Everything below the cgroup parent and the run root's `runtime` is ours.
 */
export async function recoverRuns(settings: LauncherSettings, cgroups: Cgroups): Promise<readonly string[]> {
  const paths = launcherPaths(settings.runRoot)
  const found = new Set(readdirSync(paths.records))
  for (const parent of cgroupDirectories(cgroups, settings.cgroupParent)) {
    for (const entry of readdirSync(parent, { withFileTypes: true })) {
      if (entry.isDirectory()) found.add(entry.name)
    }
  }
  for (const id of found) {
    const pid = recordedProcess(join(paths.records, id))
    if (pid !== undefined) kill(pid, SIGKILL)
    const directories = cgroupDirectories(cgroups, `${settings.cgroupParent}/${id}`)
    if (!(await killCgroup(directories, killTimeout))) throw new Error(`processes of ${id} survive SIGKILL`)
    await removeCgroup(cgroups, `${settings.cgroupParent}/${id}`)
    rmSync(join(paths.records, id), { force: true })
  }
  return [...found]
}

/** Without cgroups this is how a later launcher finds the container; the start time tells pids apart. */
export function recordProcess(file: string, pid: number): void {
  const started = startTime(pid)
  if (started !== undefined) writeFileSync(file, `${pid} ${started}`, { mode: 0o600 })
}

function recordedProcess(file: string): number | undefined {
  try {
    const record = /^([1-9][0-9]*) ([0-9]+)$/.exec(readFileSync(file, 'utf8'))
    const pid = Number(record?.[1])
    return record !== null && startTime(pid) === record[2] ? pid : undefined
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
}

/** Field 22 of proc_pid_stat(5); undefined when there is no such process. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ESRCH')) return undefined
    throw error
  }
}
