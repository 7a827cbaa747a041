import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Who may do everything. */
export const root = 0

/** `what` completes "uid N may not". */
export function denied(by: number, what: string, owner: number): BuilderError {
  return new BuilderError('ISB_PERMISSION_DENIED', `uid ${by} may not ${what}: it belongs to uid ${owner}`, {
    hint: 'Ask its owner or root.',
  })
}
