import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { arch } from 'node:os'
import { join } from 'node:path'
import { hasErrno } from '../system/system-error.js'
import { capabilitiesOfMask } from './capabilities.js'
import type { RecoveryReport } from './launcher-protocol.js'
import type { HostFacts } from './spec.js'

/** Reads what a configuration depends on from /proc and /sys of this process. */
export function readHostFacts(recovery: Pick<RecoveryReport, 'cgroups' | 'limitsProcesses'>): HostFacts {
  const status = readFileSync('/proc/self/status', 'utf8')
  const limits = readFileSync('/proc/self/limits', 'utf8')
  return {
    architecture: arch(),
    capabilities: capabilitiesOfMask(BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`)),
    openFilesLimit: hardLimit(limits, 'Max open files'),
    oomScoreAdj: Number(readFileSync('/proc/self/oom_score_adj', 'utf8')),
    thermalPaths: thermalPaths(),
    limitsProcesses: recovery.limitsProcesses,
    cgroupNamespace: recovery.cgroups === 'v2' && existsSync('/proc/self/ns/cgroup'),
  }
}

function hardLimit(limits: string, name: string): number {
  const line = limits.split('\n').find((candidate) => candidate.startsWith(name))
  const hard = line?.slice(name.length).trim().split(/\s+/)[1]
  if (hard === undefined) throw new Error(`no "${name}" in /proc/self/limits`)
  return hard === 'unlimited' ? Number.MAX_SAFE_INTEGER : Number(hard)
}

const cpuDirectory = '/sys/devices/system/cpu'

function thermalPaths(): readonly string[] {
  try {
    return readdirSync(cpuDirectory)
      .filter((name) => /^cpu[0-9]+$/.test(name))
      .map((name) => join(cpuDirectory, name, 'thermal_throttle'))
      .filter((path) => existsSync(path))
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'EACCES')) return []
    throw error
  }
}
