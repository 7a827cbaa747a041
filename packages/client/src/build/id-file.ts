import { checkResultFile, writeResultFile } from '../result-file.js'
import { buildErrorPrefix } from './build-inputs.js'

/** Fails before anything is built when the ID could not be written afterwards. */
export function checkIdFile(file: string): void {
  checkResultFile(file, 'image ID', buildErrorPrefix)
}

export function writeIdFile(file: string, imageId: string): void {
  writeResultFile(file, imageId, 'image ID', buildErrorPrefix)
}
