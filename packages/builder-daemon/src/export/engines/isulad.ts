import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { accessSync, closeSync, constants, mkdirSync, openSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export interface IsuladEngine {
  /** Path of the program, or the directories where `isula` is looked for. */
  readonly program: string | readonly string[]
  /** Archives lie in a directory per build below this one while iSulad reads them. */
  readonly temporary: string
  /** What a load may take, milliseconds. */
  readonly timeLimit: number
}

const outputLimit = 64 * 1024

/**
 * Has iSulad load the docker archive that `write` makes. iSulad is another process, which opens the file by its name
 * as root. The file is gone when this settles. Fails with ISB_ENGINE_FAILED and as `write` does.
 */
export async function loadIntoIsulad(
  { program, temporary, timeLimit }: IsuladEngine,
  buildId: string,
  write: (fd: number) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const isula = findProgram(program)
  const directory = join(temporary, buildId)
  const path = join(directory, `isula-build-tmp-${randomBytes(6).toString('hex')}.tar`)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  try {
    const fd = openSync(path, 'wx', 0o644)
    try {
      await write(fd)
    } finally {
      closeSync(fd)
    }
    await runLoad(isula, path, timeLimit, signal)
  } finally {
    rmSync(path, { force: true })
    removeEmpty(directory)
  }
}

/** Another output of the same build may still have its file there. */
function removeEmpty(directory: string): void {
  try {
    rmdirSync(directory)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error
  }
}

function findProgram(program: string | readonly string[]): string {
  const candidates =
    typeof program === 'string' ? [program] : program.map((directory) => join(directory, 'isula'))
  for (const path of candidates) {
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // The next one may be there.
    }
  }
  throw new BuilderError('ISB_ENGINE_FAILED', 'the program isula is not installed', {
    hint: `It is looked for at ${candidates.join(', ')}.`,
  })
}

function runLoad(program: string, path: string, timeLimit: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, ['load', '-i', path], {
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        HOME: '/root',
        LC_ALL: 'C',
      },
      cwd: '/',
      // What it starts ends with it.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let said = ''
    let reason: BuilderError | undefined
    const kill = (why: BuilderError): void => {
      reason ??= why
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
      } catch {
        // It has ended by itself.
      }
    }
    const late = failed(`isula load took longer than ${timeLimit / 1000} seconds`)
    const timer = setTimeout(() => kill(late), timeLimit)
    const cancel = (): void => kill(new BuilderError('ISB_CANCELLED', 'the operation was cancelled'))
    signal.addEventListener('abort', cancel, { once: true })
    if (signal.aborted) cancel()
    const listen = (text: string): void => {
      said = `${said}${text}`.slice(-outputLimit)
    }
    child.stdout.setEncoding('utf8').on('data', listen)
    child.stderr.setEncoding('utf8').on('data', listen)
    const settle = (outcome: () => void): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', cancel)
      outcome()
    }
    child.once('error', (error) => settle(() => reject(failed(`isula load: ${error.message}`))))
    child.once('close', (code, killedBy) =>
      settle(() => {
        if (reason !== undefined) reject(reason)
        else if (code === 0) resolve()
        else reject(failed(`isula load ended with ${code ?? killedBy}: ${printable(said)}`))
      }),
    )
  })
}

function printable(text: string): string {
  return (
    text
      .replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
      .trim()
      .slice(-500) || 'it said nothing'
  )
}

function failed(message: string): BuilderError {
  return new BuilderError('ISB_ENGINE_FAILED', message)
}
