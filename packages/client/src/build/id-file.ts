import { randomBytes } from 'node:crypto'
import { accessSync, constants, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { fileError } from '../file-error.js'
import { buildError, buildErrorPrefix } from './build-inputs.js'

/** Fails before anything is built when the ID could not be written afterwards. */
export function checkIdFile(file: string): void {
  const path = resolve(file)
  try {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat?.isDirectory()) throw buildError(`iidfile ${path} is a directory`)
    if (stat === undefined || stat.isFile()) accessSync(dirname(path), constants.W_OK | constants.X_OK)
    else accessSync(path, constants.W_OK)
  } catch (error) {
    throw fileError(error, path, `${buildErrorPrefix}cannot write the image ID: `)
  }
}

/** A reader of the file never sees half an ID; devices and pipes are written to, not replaced. */
export function writeIdFile(file: string, imageId: string): void {
  const path = resolve(file)
  const next = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat !== undefined && !stat.isFile()) {
      writeFileSync(path, imageId)
      return
    }
    writeFileSync(next, imageId, { flag: 'wx' })
    renameSync(next, path)
  } catch (error) {
    rmSync(next, { force: true })
    throw fileError(error, path, `${buildErrorPrefix}cannot write the image ID: `)
  }
}
