import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Why an aborted signal was aborted, as an error for users. */
export function cancellation(signal: AbortSignal): BuilderError {
  if (signal.reason instanceof BuilderError) return signal.reason
  return new BuilderError('ISB_CANCELLED', 'the transfer was cancelled')
}

/** Fails with ISB_CANCELLED as soon as the signal is aborted. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(cancellation(signal))
    const cancel = () => {
      clearTimeout(timer)
      reject(cancellation(signal))
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', cancel)
      resolve()
    }, milliseconds)
    signal.addEventListener('abort', cancel, { once: true })
  })
}
