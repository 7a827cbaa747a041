import { arch } from 'node:os'
import type { MessagePort } from 'node:worker_threads'
import { containerUmask, type StartReply, type StartRequest } from '../runtime/filtered-starts.js'
import { applyProfile } from '../runtime/seccomp-filter.js'
import { inheritedProfile } from '../runtime/seccomp-shares.js'
import { isUsual, setNice, shortWork } from '../system/priority.js'
import { CLONE_FS, setUmask, unshare } from '../system/processes.js'
import { libseccompVersion } from '../system/seccomp.js'
import { spawnProgram } from '../system/spawn.js'
import { SystemError } from '../system/system-error.js'

/** Body of the launcher's thread that starts containers: what it starts inherits its filter of system calls. */
export function runStartThread(port: MessagePort): void {
  const answer = (reply: StartReply): void => port.postMessage(reply)
  if (isUsual()) setNice(0, shortWork)
  unshare(CLONE_FS)
  setUmask(containerUmask)
  const isFiltered = applyProfile(inheritedProfile(arch()))
  port.on('message', ({ id, program }: StartRequest) => {
    const { path, args, env, stdio } = program
    try {
      answer({ type: 'started', id, pid: spawnProgram(path, args, env, stdio) })
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(String(error))
      const code = error instanceof SystemError ? error.code : ''
      answer({ type: 'failed', id, message: failure.message, code })
    }
  })
  answer({ type: 'ready', libseccomp: isFiltered ? libseccompVersion() : undefined })
}
