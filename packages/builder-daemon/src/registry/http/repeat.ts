import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../../ports/logger.js'
import type { RegistryAccess } from '../../ports/registry.js'
import type { Answer } from './exchange.js'
import { answerError, type Subject, transportError } from './failure.js'
import type { HttpLimits } from './limits.js'
import { NoAnswer } from './no-answer.js'
import { type Attempt, type FailedAttempt, noticeWait, retrying, transientStatuses } from './retry.js'
import { retryAfter } from './retry-after.js'

export interface RepeatOptions {
  readonly subject: Subject
  /** Statuses that are answers, transient or not. */
  readonly expect: readonly number[]
  /** No second attempt. */
  readonly once: boolean
  readonly access: Pick<RegistryAccess, 'retries' | 'insists' | 'retryDelay'>
  /** A connection that is refused will be refused again, as far as anybody can tell: one more attempt has to do. */
  readonly refusesForGood: () => boolean
  readonly signal: AbortSignal
  /** Told of waits that a user would take for a hang. */
  readonly onNotice: ((line: string) => void) | undefined
}

/** Calls `send` until it gives an answer that is no transient failure. Fails with BuilderErrors only. */
export type Repeater = (send: () => Promise<Answer>, options: RepeatOptions) => Promise<Answer>

export function createRepeater(limits: HttpLimits, log: Logger): Repeater {
  return (send, { subject, expect, once, access, refusesForGood, signal, onNotice }) => {
    const failed = (error: BuilderError, more: Partial<FailedAttempt> = {}): Attempt<Answer> => ({
      failed: {
        ...{ error, limited: false, retryAfter: undefined },
        ...more,
        conclude: (attempts) => withAttempts(error, attempts),
      },
    })
    const attempt = async (): Promise<Attempt<Answer>> => {
      try {
        const answer = await send()
        if (expect.includes(answer.status) || !transientStatuses.has(answer.status)) return { value: answer }
        const wait = retryAfter(answer.headers['retry-after'], Date.now())
        return failed(await answerError(answer, subject), {
          retryAfter: wait,
          limited: answer.status === 429,
        })
      } catch (error) {
        if (!(error instanceof NoAnswer)) throw error
        const known = transportError(error, subject)
        if (!error.details.transient) throw known
        const isLost = error.details.refused === true && access.insists !== true && refusesForGood()
        return failed(known, isLost ? { retries: 1 } : {})
      }
    }
    return retrying(attempt, {
      access,
      once,
      limits,
      signal,
      onRetry({ error, limited }, count, delay) {
        log.info('registry.retry', { host: subject.host, attempt: count, delay, reason: error.message })
        const reason = limited ? `registry ${subject.host} limits requests` : error.message
        noticeWait(onNotice, reason, delay)
      },
    })
  }
}

function withAttempts({ code, message, details }: BuilderError, attempts: string): BuilderError {
  return new BuilderError(code, `${message.replace(/\)$/, '')}; ${attempts})`, details)
}
