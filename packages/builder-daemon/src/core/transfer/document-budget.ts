import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** What the small documents of one operation may come to: manifests, indexes and configurations. */
export interface DocumentBudget {
  /** Before one of so many bytes is asked for. Fails with ISB_LIMIT_EXCEEDED; `what` begins the message. */
  take(bytes: number, what: string): void
}

const maxDocuments = 512
const maxBytes = 32 << 20

/** Indexes can name indexes, so a limit for each document alone is none for all of them. */
export function createDocumentBudget(): DocumentBudget {
  let documents = 0
  let sum = 0
  return {
    take(bytes, what) {
      documents += 1
      sum += bytes
      if (documents <= maxDocuments && sum <= maxBytes) return
      const limit =
        documents > maxDocuments ? `${maxDocuments} documents` : `${maxBytes >> 20} MiB of documents`
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} leads to more than ${limit}`)
    },
  }
}
