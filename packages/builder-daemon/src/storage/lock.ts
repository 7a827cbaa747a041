import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { tryFlock } from '../system/syscalls.js'
import { checkFileSystem, layoutOf, makeDataRoot } from './layout.js'

/** A held lock, to be released once; the kernel does when the process ends, however it ends. */
export interface Lock {
  release(): void
}

function holder(path: string): string {
  const pid = readFileSync(path, 'utf8').trim()
  return /^\d+$/.test(pid) ? ` (pid ${pid})` : ''
}

/** Takes `flock` on the file and writes `pid` into it. Fails with ISB_ALREADY_EXISTS naming the holder. */
export function takeLock(path: string, pid: number): Lock {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const fd = openSync(path, 'a', 0o600)
  try {
    if (!tryFlock(fd, 'exclusive')) {
      throw new BuilderError(
        'ISB_ALREADY_EXISTS',
        `lock ${path} failed, check if there is another daemon running${holder(path)}`,
        { hint: 'Stop the other isula-builder, or give this one its own data root and run root.' },
      )
    }
    ftruncateSync(fd)
    writeSync(fd, `${pid}\n`)
  } catch (error) {
    closeSync(fd)
    throw error
  }
  return { release: () => closeSync(fd) }
}

export interface StoreRoots {
  readonly dataRoot: string
  readonly runRoot: string
}

/**
 * Locks the data root, which is made when it is missing, and the run root: whoever has both is the only daemon that
 * uses either. Fails with ISB_CONFIG_INVALID when the data root cannot hold a store, ISB_ALREADY_EXISTS when another
 * daemon has one of them.
 */
export function lockStore({ dataRoot, runRoot }: StoreRoots, pid: number): Lock {
  const layout = layoutOf(dataRoot)
  checkFileSystem(layout)
  makeDataRoot(layout)
  const data = takeLock(layout.lock, pid)
  try {
    const run = takeLock(`${runRoot}/isula-builder.lock`, pid)
    return {
      release() {
        run.release()
        data.release()
      },
    }
  } catch (error) {
    data.release()
    throw error
  }
}
