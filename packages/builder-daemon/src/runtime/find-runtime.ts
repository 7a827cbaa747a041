import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { toolEnvironment } from './run-context.js'

/** Absolute path of the first of `names` that is installed in a system directory. */
export function findRuntime(names: readonly string[] = ['runc', 'crun']): string | undefined {
  for (const name of names) {
    if (name.startsWith('/')) {
      if (existsSync(name)) return name
      continue
    }
    for (const directory of toolEnvironment.PATH.split(':')) {
      const path = join(directory, name)
      if (existsSync(path)) return path
    }
  }
  return undefined
}
