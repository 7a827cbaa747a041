import {
  fchownSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { type Capability, capabilityMask, capabilityNames } from '../runtime/capabilities.js'
import type { ContainerFailure, ContainerRequest } from '../runtime/chroot-container.js'
import { mountSystem } from '../runtime/container-mounts.js'
import type { ChrootProcessRequest } from '../runtime/launcher-protocol.js'
import { applyProfile } from '../runtime/seccomp-filter.js'
import {
  capset,
  enableLoopback,
  execve,
  inheritOnlyStdio,
  mayExecute,
  pivotRoot,
  resetSignals,
  sethostname,
  setrlimit,
  setsid,
} from '../system/containment.js'
import {
  MNT_DETACH,
  PR_CAP_AMBIENT,
  PR_CAP_AMBIENT_CLEAR_ALL,
  PR_CAPBSET_DROP,
  prctl,
  setgroups,
  setresgid,
  setresuid,
  umount2,
} from '../system/processes.js'
import { hasErrno, SystemError } from '../system/system-error.js'

/**
 * The first process of a container that no OCI runtime makes. It has namespaces of its own already;
 * it fills them, gives up its rights and becomes the command.
 */
export function becomeContainer(): void {
  try {
    // The /proc that is still mounted is the launcher's, and so is the pid it gives.
    writeSync(4, `${readlinkSync('/proc/self')}\n`)
    const request = JSON.parse(readFileSync(3, 'utf8')) as ContainerRequest
    for (const directory of request.cgroupDirectories) writeFileSync(join(directory, 'cgroup.procs'), '0')
    setsid()
    process.umask(0)
    mountSystem(request)
    sethostname(request.hostname)
    if (request.network === 'none') enableLoopback()
    enterRoot(request.rootfs)
    prepareProcess(request)
    executeCommand(request)
  } catch (error) {
    writeSync(4, `${JSON.stringify(failureOf(error))}\n`)
    process.exit(1)
  }
}

class StartFailure extends Error {
  constructor(
    message: string,
    readonly exitCode: number,
  ) {
    super(message)
  }
}

function failureOf(error: unknown): ContainerFailure {
  if (error instanceof StartFailure) return { message: error.message, exitCode: error.exitCode }
  const reason = error instanceof Error ? error.message : String(error)
  return { message: `the container could not be started: ${reason}`, exitCode: 125 }
}

// chroot(2) alone can be left by a process with CAP_SYS_CHROOT; after this there is nowhere to go.
function enterRoot(rootfs: string): void {
  process.chdir(rootfs)
  pivotRoot('.', '.')
  umount2('.', MNT_DETACH)
  process.chdir('/')
}

function prepareProcess({ cwd, process: wanted }: ContainerRequest): void {
  for (const { type, soft, hard } of wanted.rlimits) setrlimit(type, soft, hard)
  if (wanted.oomScoreAdj !== undefined) writeFileSync('/proc/self/oom_score_adj', String(wanted.oomScoreAdj))
  process.umask(0o022)
  makeWorkingDirectory(cwd)
  // Before the capabilities go, since loading a filter needs one. Without libseccomp there is none.
  if (wanted.seccomp !== undefined) applyProfile(wanted.seccomp)
  for (const [number, name] of capabilityNames.entries()) {
    if (!wanted.capabilities.bounding.includes(name)) dropBounding(number, name)
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
  const { uid, gid, additionalGids } = wanted.user
  // So that a user other than root may open /dev/stdout and /dev/stderr.
  fchownSync(1, uid, gid)
  setgroups(additionalGids)
  setresgid(gid, gid, gid)
  setresuid(uid, uid, uid)
  const { effective, permitted, inheritable } = wanted.capabilities
  capset(capabilityMask(effective), capabilityMask(permitted), capabilityMask(inheritable))
  enterWorkingDirectory(cwd)
}

function dropBounding(number: number, name: Capability): void {
  try {
    prctl(PR_CAPBSET_DROP, number)
  } catch (error) {
    // An older kernel does not know the newest capabilities, so nobody has them.
    if (!hasErrno(error, 'EINVAL')) throw new Error(`cannot drop ${name}`, { cause: error })
  }
}

function makeWorkingDirectory(cwd: string): void {
  try {
    mkdirSync(cwd, { recursive: true, mode: 0o755 })
  } catch (error) {
    if (!hasErrno(error, 'EEXIST', 'ENOTDIR', 'EROFS')) throw error
  }
}

function enterWorkingDirectory(cwd: string): void {
  try {
    process.chdir(cwd)
  } catch (error) {
    const why = hasErrno(error, 'EACCES') ? 'permission denied' : 'no such directory'
    throw new StartFailure(`chdir to the working directory ("${cwd}") failed: ${why}`, 126)
  }
  // getcwd(2) says so when the directory is not below the root.
  if (!process.cwd().startsWith('/')) {
    throw new StartFailure(`the working directory ("${cwd}") is outside of the container`, 126)
  }
}

const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

function executeCommand({ process: wanted }: ContainerRequest): never {
  const command = wanted.args[0] ?? ''
  const path = command.includes('/') ? checkedProgram(command) : searchedProgram(command, wanted)
  inheritOnlyStdio()
  resetSignals()
  try {
    return execve(path, wanted.args, wanted.env)
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    const reasons: Readonly<Record<string, readonly [string, number]>> = {
      ENOENT: ['no such file or directory', 127],
      ENOEXEC: ['exec format error', 126],
      EACCES: ['permission denied', 126],
      E2BIG: ['argument list too long', 126],
    }
    const [reason, exitCode] = reasons[error.code] ?? [error.code, 126]
    throw new StartFailure(`exec ${path}: ${reason}`, exitCode)
  }
}

function checkedProgram(path: string): string {
  const found = look(path)
  if (found === 'missing') {
    throw new StartFailure(`exec: "${path}": stat ${path}: no such file or directory`, 127)
  }
  if (found === 'directory') throw new StartFailure(`exec: "${path}": is a directory`, 126)
  if (found === 'denied') throw new StartFailure(`exec: "${path}": permission denied`, 126)
  return path
}

function searchedProgram(name: string, wanted: ChrootProcessRequest): string {
  const setting = wanted.env.findLast((entry) => entry.startsWith('PATH='))?.slice('PATH='.length)
  for (const directory of (setting ?? defaultPath).split(':')) {
    const path = join(directory === '' ? '.' : directory, name)
    if (look(path) === 'program') return path
  }
  throw new StartFailure(`exec: "${name}": executable file not found in $PATH`, 127)
}

function look(path: string): 'program' | 'directory' | 'denied' | 'missing' {
  try {
    if (statSync(path).isDirectory()) return 'directory'
  } catch (error) {
    if (hasErrno(error, 'EACCES')) return 'denied'
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG')) return 'missing'
    throw error
  }
  return mayExecute(bytesOfText(path)) ? 'program' : 'denied'
}
