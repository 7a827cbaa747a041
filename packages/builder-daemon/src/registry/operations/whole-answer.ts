import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Answer, Exchange } from '../http/exchange.js'
import { createPatience } from './patience.js'
import { send, type Target } from './target.js'

export interface WholeAnswer {
  readonly answer: Answer
  readonly bytes: Buffer
}

/**
 * Sends and reads a body that fits in memory; a body that breaks off is asked for again. Fails with
 * ISB_LIMIT_EXCEEDED for more than `limit` bytes.
 */
export async function fetchWhole(
  target: Target,
  exchange: Exchange,
  limit: number,
  what: string,
): Promise<WholeAnswer> {
  const patience = createPatience(target.call, 0)
  for (;;) {
    const answer = await send(target, exchange, what)
    try {
      return { answer, bytes: await answer.bytes(limit) }
    } catch (error) {
      if (!isBuilderError(error, 'ISB_REGISTRY_UNAVAILABLE')) throw error
      await patience.next(error)
    }
  }
}
