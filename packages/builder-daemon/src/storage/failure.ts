import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

const spaceCodes = new Set(['ENOSPC', 'EDQUOT', 'SQLITE_FULL'])

/** The errno or SQLite name of a failure, '' when it has none. */
export function failureCode(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('code' in error)) return ''
  return typeof error.code === 'string' ? error.code : ''
}

/** What SQLite says of a file whose content is no sound database. */
export function tellsDamagedDatabase(error: unknown): boolean {
  return /^SQLITE_(CORRUPT|NOTADB)/.test(failureCode(error))
}

/**
 * What the store throws for a failed system or database call: ISB_NO_SPACE for a full disk or quota, a
 * plain error saying what was being done for everything else. A BuilderError passes unchanged.
 */
export function storeFailure(error: unknown, doing: string): Error {
  if (error instanceof BuilderError) return error
  if (spaceCodes.has(failureCode(error))) {
    return new BuilderError('ISB_NO_SPACE', `no space left while ${doing}`, { cause: error })
  }
  const reason = error instanceof Error ? error.message : String(error)
  return new Error(`${doing}: ${reason}`, { cause: error })
}

/** Awaits `work`, turning its failure into a store failure. */
export async function attempt<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw storeFailure(error, doing)
  }
}
