import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'the operation was cancelled')
}
