import { mkdirSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Fails with ISB_CONFIG_INVALID when there can be no directory at `path`. */
export function makeRunRoot(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new BuilderError(
      'ISB_CONFIG_INVALID',
      `the run root ${path} cannot be made: ${(error as Error).message}`,
      { cause: error },
    )
  }
}
