import { randomBytes } from 'node:crypto'
import { accessSync, constants, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { fileError } from './file-error.js'

// Files that a result is written to for other programs. `what` names the result in messages.

/** Fails before anything is done when the result could not be written afterwards. */
export function checkResultFile(file: string, what: string, prefix = ''): void {
  const path = resolve(file)
  try {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat?.isDirectory()) {
      throw new BuilderError(
        'ISB_ARGUMENT_INVALID',
        `${prefix}cannot write the ${what}: ${path} is a directory`,
      )
    }
    if (stat === undefined || stat.isFile()) accessSync(dirname(path), constants.W_OK | constants.X_OK)
    else accessSync(path, constants.W_OK)
  } catch (error) {
    throw fileError(error, path, `${prefix}cannot write the ${what}: `)
  }
}

/** A reader of the file never sees half of it; devices and pipes are written to, not replaced. */
export function writeResultFile(file: string, text: string, what: string, prefix = ''): void {
  const path = resolve(file)
  const next = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat !== undefined && !stat.isFile()) {
      writeFileSync(path, text)
      return
    }
    writeFileSync(next, text, { flag: 'wx' })
    renameSync(next, path)
  } catch (error) {
    rmSync(next, { force: true })
    throw fileError(error, path, `${prefix}cannot write the ${what}: `)
  }
}
