import { addressOf, cString, lastErrno, libc } from './libc.js'
import { errnoName, SystemError } from './system-error.js'

/**
 * Starting a program from synchronous code: no event loop, no fork of the daemon's memory, no search
 * in PATH. Whoever starts one must wait for it.
 */

const call = {
  actionsInit: libc('int posix_spawn_file_actions_init(void *)'),
  actionsDestroy: libc('int posix_spawn_file_actions_destroy(void *)'),
  addDup2: libc('int posix_spawn_file_actions_adddup2(void *, int, int)'),
  addCloseFrom: libc('int posix_spawn_file_actions_addclosefrom_np(void *, int)'),
  attrInit: libc('int posix_spawnattr_init(void *)'),
  attrDestroy: libc('int posix_spawnattr_destroy(void *)'),
  setFlags: libc('int posix_spawnattr_setflags(void *, short)'),
  setMask: libc('int posix_spawnattr_setsigmask(void *, const void *)'),
  setDefault: libc('int posix_spawnattr_setsigdefault(void *, const void *)'),
  fillSet: libc('int sigfillset(void *)'),
  spawn: libc(
    'int posix_spawn(void *, const void *, const void *, const void *, const void *, const void *)',
  ),
  waitpid: libc('int waitpid(int, void *, int)'),
}

export const SIGKILL = 9
const POSIX_SPAWN_SETSIGDEF = 4
const POSIX_SPAWN_SETSIGMASK = 8
const SIGSET_BYTES = 128
// Larger than the opaque structures of glibc and musl on every architecture.
const OPAQUE_BYTES = 512

/**
 * Starts the program at an absolute path with descriptors as its 0, 1, 2; all signals are at their
 * defaults. No other descriptor reaches it. Gives its process id.
 */
export function spawnProgram(
  path: string,
  args: readonly string[],
  env: readonly string[],
  stdio: readonly [number, number, number],
): number {
  const actions = Buffer.alloc(OPAQUE_BYTES)
  const attributes = Buffer.alloc(OPAQUE_BYTES)
  const signals = Buffer.alloc(SIGSET_BYTES)
  ok(call.actionsInit(actions), path)
  ok(call.attrInit(attributes), path)
  try {
    for (const [target, fd] of stdio.entries()) ok(call.addDup2(actions, fd, target), path)
    closeOthers(actions, path)
    ok(call.setMask(attributes, signals), path)
    call.fillSet(signals)
    ok(call.setDefault(attributes, signals), path)
    ok(call.setFlags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK), path)
    const argv = vector(args)
    const envp = vector(env)
    const pid = Buffer.alloc(4)
    ok(call.spawn(pid, cString(path, 'posix_spawn'), actions, attributes, argv.pointers, envp.pointers), path)
    // The memory behind the pointers has to live until here.
    if (argv.memory.length + envp.memory.length === 0) throw new Error('no arguments')
    return pid.readInt32LE(0)
  } finally {
    call.attrDestroy(attributes)
    call.actionsDestroy(actions)
  }
}

let canCloseFrom = true

/** Descriptors that are not close-on-exec, because somebody else opened them, stay out too (glibc 2.34). */
function closeOthers(actions: Buffer, path: string): void {
  if (!canCloseFrom) return
  let errno: number
  try {
    errno = call.addCloseFrom(actions, 3)
  } catch {
    // An older libc has no such function; close-on-exec has to do there.
    canCloseFrom = false
    return
  }
  ok(errno, path)
}

function ok(errno: number, path: string): void {
  if (errno !== 0) throw new SystemError(errno, 'posix_spawn', path)
}

function vector(strings: readonly string[]): { readonly pointers: Buffer; readonly memory: Buffer } {
  const memory = Buffer.from(strings.map((text) => `${text}\0`).join(''), 'utf8')
  const pinned = Buffer.allocUnsafeSlow(memory.length)
  memory.copy(pinned)
  const pointers = Buffer.alloc((strings.length + 1) * 8)
  let at = addressOf(pinned)
  for (const [index, text] of strings.entries()) {
    pointers.writeBigUInt64LE(at, index * 8)
    at += BigInt(Buffer.byteLength(text) + 1)
  }
  return { pointers, memory: pinned }
}

/** Waits for the program; its exit code, or 128 plus the signal that ended it. */
export function waitProgram(pid: number): number {
  const status = Buffer.alloc(4)
  for (;;) {
    if (call.waitpid(pid, status, 0) === pid) break
    const errno = lastErrno()
    if (errnoName(errno) !== 'EINTR') throw new SystemError(errno, 'waitpid')
  }
  const value = status.readInt32LE(0)
  const signal = value & 0x7f
  return signal === 0 ? (value >> 8) & 0xff : 128 + signal
}
