import type { CredentialAnswer, NeedCredentials } from '@isula-build/shared/rpc/credential-messages.js'
import type { CredentialClient } from './handlers.js'
import { invalid } from './request-checks.js'

export interface CredentialQuestions {
  readonly client: CredentialClient
  /** Fails with ISB_ARGUMENT_INVALID for an answer to nothing. */
  answer(answer: CredentialAnswer): void
  /** The client answers nothing any more, so it knows no other logins. */
  close(): void
  /** Fails what is still asked, and what will be. */
  fail(reason: unknown): void
}

type Known = Awaited<ReturnType<CredentialClient['credentials']>>

/** Identity tokens are some kilobytes long. */
const maxLength = 64 * 1024

/** Asks the client of one call what it would log in with; the same thing once. `ask` sends the question. */
export function createCredentialQuestions(
  ask: (question: NeedCredentials) => Promise<void>,
): CredentialQuestions {
  const answers = new Map<string, Promise<Known>>()
  const waiting = new Map<number, { resolve: (known: Known) => void; reject: (reason: unknown) => void }>()
  let lastQuestion = 0
  let ended: { readonly failure?: { readonly reason: unknown } } | undefined

  async function put(host: string, repository: string, named: string): Promise<Known> {
    if (ended?.failure !== undefined) throw ended.failure.reason
    if (ended !== undefined) return undefined
    const question = ++lastQuestion
    const { promise, resolve, reject } = deferred<Known>()
    waiting.set(question, { resolve, reject })
    ask({ question, host, repository, named }).catch(reject)
    try {
      return await promise
    } finally {
      waiting.delete(question)
    }
  }

  return {
    client: {
      credentials(host, repository, named = '') {
        const key = `${host} ${repository} ${named}`
        const known = answers.get(key)
        if (known !== undefined) return known
        const answer = put(host, repository, named)
        answers.set(key, answer)
        return answer
      },
    },
    answer({ question, credentials, explicit }) {
      const asker = waiting.get(question)
      if (asker === undefined) throw invalid(`nobody asked question ${question}`)
      if (credentials === undefined) return asker.resolve(undefined)
      const { username, password } = credentials
      if (username.length > maxLength || password.length > maxLength) {
        throw invalid(`a user name or password is longer than ${maxLength} characters`)
      }
      asker.resolve({ username, password, explicit })
    },
    close() {
      ended ??= {}
      for (const { resolve } of waiting.values()) resolve(undefined)
    },
    fail(reason) {
      ended ??= { failure: { reason } }
      for (const { reject } of waiting.values()) reject(reason)
    },
  }
}

/** A client that takes no part in a call. */
export const knowsNoLogins: CredentialClient = { credentials: () => Promise.resolve(undefined) }

function deferred<T>() {
  let resolve: (value: T) => void = () => undefined
  let reject: (reason: unknown) => void = () => undefined
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}
