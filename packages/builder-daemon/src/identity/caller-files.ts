import { closeSync, fstatSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import type { Caller, CallerFiles, ContextHandle, FileIdentity, OpenedFile } from '../ports/caller.js'
import type { Logger } from '../ports/logger.js'
import { createFileSystemFinder } from '../system/file-system-kind.js'
import {
  contextHandle,
  createDirectly,
  createDirectoryDirectly,
  exchangeDirectly,
  openDirectoryDirectly,
  openReadDirectly,
  removeDirectly,
  replaceDirectly,
} from './direct-files.js'
import { HelperProcess, type HelperReply } from './helper-process.js'
import { type HelperRequest, replaceLimit, type WireIdentity } from './helper-requests.js'
import type { UnixIdentity } from './privileges.js'
import { refusal } from './refusal.js'

export interface CallerFilesOptions {
  /** Path of the compiled `workers/identity-helper`. */
  readonly helperEntry: string
  readonly log: Logger
  /** How long a helper without work lives on, milliseconds. */
  readonly idleMs: number
  /** The caller with the groups he has now. Fails with ISB_PERMISSION_DENIED. */
  readonly current?: (caller: Caller) => Promise<Caller>
}

export interface OwnCallerFiles extends CallerFiles, AsyncDisposable {
  /**
   * Helpers of the user with one of these groups take no new work; they end with what they have. A context
   * that is open keeps what it was opened with, as a descriptor does.
   */
  retire(uid: number, gids: ReadonlySet<number>): void
}

/** A helper, and how many contexts depend on it. */
interface Helper {
  readonly process: HelperProcess
  readonly identity: UnixIdentity
  contexts: number
  idle: NodeJS.Timeout | undefined
}

/** Files with the rights of whoever called: root callers by the daemon itself, others through a process of their uid. */
export function createCallerFiles(options: CallerFilesOptions): OwnCallerFiles {
  const helpers = new Map<string, Helper>()
  const retired = new Set<Helper>()
  let disposed = false

  const current = async (caller: Caller): Promise<Caller> => (await options.current?.(caller)) ?? caller

  /** To be used at once: a helper without work may be gone the next moment. */
  function helperOf(caller: Caller): Helper {
    if (disposed) throw new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping')
    const { uid, gid } = caller
    const groups = [...new Set(caller.groups)].sort((a, b) => a - b)
    const key = `${uid}:${gid}:${groups.join(',')}`
    const known = helpers.get(key)
    if (known !== undefined && !known.process.hasFailed) return known
    const identity = { uid, gid, groups }
    const started = new HelperProcess(options.helperEntry, identity, options.log)
    options.log.debug('identity.helper.started', { uid })
    const helper: Helper = { process: started, identity, contexts: 0, idle: undefined }
    helpers.set(key, helper)
    void started.ended.then(() => {
      clearTimeout(helper.idle)
      retired.delete(helper)
      if (helpers.get(key) === helper) helpers.delete(key)
    })
    return helper
  }

  function restIfIdle(helper: Helper): void {
    clearTimeout(helper.idle)
    if (!helper.process.isIdle || helper.contexts > 0) return
    if (retired.has(helper)) {
      helper.process.kill()
      return
    }
    helper.idle = setTimeout(() => helper.process.kill(), options.idleMs)
    helper.idle.unref()
  }

  async function ask(
    helper: Helper,
    request: HelperRequest,
    path: string,
    signal?: AbortSignal,
  ): Promise<HelperReply> {
    clearTimeout(helper.idle)
    try {
      const reply = await helper.process.request(request, signal)
      if (reply.answer.code === undefined) return reply
      for (const fd of reply.descriptors) closeSync(fd)
      throw refusal(reply.answer.code, path)
    } finally {
      restIfIdle(helper)
    }
  }

  async function rewrite(
    op: 'replace' | 'exchange',
    { caller, path, mode }: { readonly caller: Caller; readonly path: string; readonly mode: number },
    content: Uint8Array,
  ): Promise<void> {
    checkPath(caller, path)
    if (content.length > replaceLimit) throw new Error('too much content to replace a file by')
    if (caller.uid === 0) {
      return await (op === 'replace' ? replaceDirectly : exchangeDirectly)(path, content, mode)
    }
    const base64 = Buffer.from(content).toString('base64')
    await ask(helperOf(await current(caller)), { op, path: bytesOfText(path), mode, base64 }, path)
  }

  return {
    async openRead(caller, path, signal) {
      checkPath(caller, path)
      if (caller.uid === 0) return await openReadDirectly(path)
      const request = { op: 'openRead', path: bytesOfText(path) } as const
      const { answer, descriptors } = await ask(helperOf(await current(caller)), request, path, signal)
      const fd = onlyDescriptor(descriptors)
      if (answer.stream === undefined) return checkedFile(fd, path, ['local'])
      if (!fstatSync(fd).isFIFO()) throw distrust(fd)
      const { size, dev, ino } = answer.stream
      return { fd, size, dev: BigInt(dev), ino: BigInt(ino) }
    },
    async create(caller, path, mode, { signal, parent } = {}) {
      checkPath(caller, path)
      if (caller.uid === 0) return await createDirectly(path, mode, parent)
      const expected = parent === undefined ? undefined : wireIdentity(parent)
      const request = { op: 'create', path: bytesOfText(path), mode, parent: expected } as const
      const { descriptors } = await ask(helperOf(await current(caller)), request, path, signal)
      return checkedFile(onlyDescriptor(descriptors), path, ['local', 'remote'])
    },
    replace: (caller, path, content, mode) => rewrite('replace', { caller, path, mode }, content),
    exchange: (caller, path, content, mode) => rewrite('exchange', { caller, path, mode }, content),
    async removeCreated(caller, path, file) {
      checkPath(caller, path)
      if (caller.uid === 0) return await removeDirectly(path, file)
      const request = { op: 'remove', path: bytesOfText(path), ...wireIdentity(file) } as const
      await ask(helperOf(await current(caller)), request, path)
    },
    async createDirectory(caller, path, mode) {
      checkPath(caller, path)
      if (caller.uid === 0) return await createDirectoryDirectly(path, mode)
      await ask(
        helperOf(await current(caller)),
        { op: 'createDirectory', path: bytesOfText(path), mode },
        path,
      )
    },
    async openDirectory(caller, path, signal) {
      checkPath(caller, path)
      if (caller.uid === 0) return await openDirectoryDirectly(path)
      const helper = helperOf(await current(caller))
      helper.contexts += 1
      const release = () => {
        helper.contexts -= 1
        restIfIdle(helper)
      }
      try {
        const request = { op: 'openDirectory', path: bytesOfText(path) } as const
        const { answer, descriptors } = await ask(helper, request, path, signal)
        const fd = onlyDescriptor(descriptors)
        if (!fstatSync(fd).isSocket() || answer.directory === undefined) throw distrust(fd)
        const { dev, ino } = answer.directory
        const identity = { dev: BigInt(dev), ino: BigInt(ino) }
        return releasing(
          contextHandle({ access: 'helper', fd, path, identity, helperOf: caller.uid }),
          release,
        )
      } catch (error) {
        release()
        throw error
      }
    },
    retire(uid, gids) {
      for (const [key, helper] of helpers) {
        const { identity } = helper
        if (identity.uid !== uid || ![identity.gid, ...identity.groups].some((gid) => gids.has(gid))) continue
        helpers.delete(key)
        retired.add(helper)
        restIfIdle(helper)
      }
    },
    async [Symbol.asyncDispose]() {
      disposed = true
      const running = [...helpers.values(), ...retired]
      for (const { process } of running) process.kill()
      await Promise.all(running.map(({ process }) => process.ended))
    },
  }
}

function checkPath(caller: Caller, path: string): void {
  if (!path.startsWith('/') || path.includes('\0') || path.length > 4096) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', `"${path.slice(0, 200)}" is not an absolute path`)
  }
  if (!caller.sameMountNamespace) throw refusal('OTHER_NAMESPACE', path)
}

function wireIdentity({ dev, ino }: FileIdentity): WireIdentity {
  return { dev: String(dev), ino: String(ino) }
}

/** Once more by our own eyes: what a user's process hands over need not be what it says. */
function checkedFile(fd: number, path: string, kinds: readonly string[]): OpenedFile {
  const { size, dev, ino } = fstatIfSafe(fd, path, kinds)
  return { fd, size: Number(size), dev, ino }
}

function fstatIfSafe(fd: number, path: string, kinds: readonly string[]) {
  try {
    if (!kinds.includes(createFileSystemFinder()(fd))) throw refusal('KERNEL_FILE', path)
    const stat = fstatSync(fd, { bigint: true })
    if (!stat.isFile()) throw refusal('NOT_FILE', path)
    return stat
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

function onlyDescriptor(descriptors: readonly number[]): number {
  const [fd, ...more] = descriptors
  for (const extra of more) closeSync(extra)
  if (fd === undefined) throw new Error('an identity helper sent no descriptor')
  return fd
}

function distrust(fd: number): Error {
  closeSync(fd)
  return new Error('an identity helper sent a descriptor of the wrong kind')
}

function releasing(handle: ContextHandle, release: () => void): ContextHandle {
  let held = true
  return {
    ...handle,
    async [Symbol.asyncDispose]() {
      await handle[Symbol.asyncDispose]()
      if (held) release()
      held = false
    },
  }
}
