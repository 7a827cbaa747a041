import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { accessSync, closeSync, constants, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { fileError } from '../../file-error.js'
import type { OutputSink } from '../output-sink.js'

/** Characters of what isula says. */
const outputLimit = 64 * 1024

/** Fails before anything is built when the image could not be handed over afterwards. */
export function checkIsula(path: string | undefined): void {
  const directories = (path ?? '').split(':').filter((directory) => directory !== '')
  if (!directories.some(holdsIsula)) throw failed('the program isula is not installed')
}

function holdsIsula(directory: string): boolean {
  try {
    accessSync(join(directory, 'isula'), constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** A docker archive for `isula load`, through a file that is gone afterwards, however it ends. */
export function isuladSink(name: string): OutputSink {
  const path = join(tmpdir(), `isula-build-tmp-${randomBytes(6).toString('hex')}.tar`)
  let fd = create(path)
  let child: ChildProcess | undefined
  let isAborted = false

  const close = (): void => {
    if (fd >= 0) closeSync(fd)
    fd = -1
  }
  return {
    place: `isulad:${name}`,
    async write(data) {
      try {
        for (let at = 0; at < data.length; ) at += writeSync(fd, data, at)
      } catch (error) {
        throw fileError(error, path)
      }
    },
    async finish() {
      close()
      try {
        if (isAborted) throw failed('isula load was cancelled')
        child = spawn('isula', ['load', '-i', path], { stdio: ['ignore', 'pipe', 'pipe'] })
        await ended(child)
      } finally {
        rmSync(path, { force: true })
      }
    },
    abort() {
      isAborted = true
      close()
      child?.kill('SIGKILL')
      rmSync(path, { force: true })
    },
  }
}

/** iSulad, which opens the file, is root; nobody else needs to read it. */
function create(path: string): number {
  try {
    return openSync(path, 'wx', 0o600)
  } catch (error) {
    throw fileError(error, path)
  }
}

function ended(child: ChildProcess): Promise<void> {
  let said = ''
  const listen = (text: string): void => {
    said = `${said}${text}`.slice(-outputLimit)
  }
  child.stdout?.setEncoding('utf8').on('data', listen)
  child.stderr?.setEncoding('utf8').on('data', listen)
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(failed(`isula load: ${error.message}`)))
    child.once('close', (code, signal) => {
      if (code === 0) resolve()
      else reject(failed(`isula load ended with ${code ?? signal}: ${printable(said)}`))
    })
  })
}

function printable(text: string): string {
  const plain = text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ').trim()
  return plain.slice(-500) || 'it said nothing'
}

function failed(message: string): BuilderError {
  return new BuilderError('ISB_ENGINE_FAILED', message)
}
