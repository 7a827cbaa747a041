import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { cancellation } from './cancellation.js'
import { connectionFailure } from './connection-failure.js'
import type { Answer } from './exchange.js'
import type { HttpLimits } from './limits.js'
import { NoAnswer } from './no-answer.js'
import { watchProgress } from './progress-watch.js'
import type { Slot } from './slots.js'
import type { Reply } from './transport.js'

export interface AnswerOptions {
  readonly limits: HttpLimits
  /** Released when the body has ended, however. */
  readonly slot: Slot | undefined
  readonly signal: AbortSignal
  /** What a broken body becomes. */
  readonly explain: (failure: NoAnswer) => Error
}

/** What `discard` reads at most, bytes and milliseconds, to save a connection. */
const shortRest = 64 * 1024
const shortTime = 1000

/** The body of a reply, watched: it ends, or fails, in bounded time, and holds neither socket nor slot after that. */
export function createAnswer(reply: Reply, { limits, slot, signal, explain }: AnswerOptions): Answer {
  const { status, headers, url, message } = reply
  let begun = false
  let ended = false
  let broken: Error | undefined
  const abort = () => message.destroy(new Error('aborted'))
  const unread = setTimeout(() => end(), limits.idle)

  function end(): void {
    if (ended) return
    ended = true
    clearTimeout(unread)
    signal.removeEventListener('abort', abort)
    reply.close()
    slot?.release()
  }

  function failure(error: unknown): Error {
    if (signal.aborted) return cancellation(signal)
    const known = broken ?? error
    if (known instanceof BuilderError) return known
    const cause = known instanceof NoAnswer ? known : connectionFailure(known, false)
    const cut = new NoAnswer('the connection broke before the answer was complete', {
      transient: true,
      cause,
    })
    return explain(/before an answer came/.test(cause.message) ? cut : cause)
  }

  async function* read(): AsyncGenerator<Uint8Array, void, undefined> {
    if (begun) throw new Error('the body of an answer is read once')
    begun = true
    clearTimeout(unread)
    const iterator = message[Symbol.asyncIterator]()
    const watch = watchProgress(limits, slot, (bytes) => {
      broken = new NoAnswer(`the answer stopped (${bytes} bytes in ${limits.idle / 1000} s)`, {
        transient: true,
      })
      message.destroy(broken)
    })
    try {
      if (ended && !message.complete)
        throw broken ?? new NoAnswer('the answer was not read in time', { transient: true })
      for (;;) {
        watch.waiting()
        const { done, value } = await iterator.next()
        if (done === true) break
        watch.moved((value as Uint8Array).length)
        yield value as Uint8Array
      }
      if (!message.complete) throw Object.assign(new Error('incomplete'), { code: 'ECONNRESET' })
    } catch (error) {
      throw failure(error)
    } finally {
      watch.end()
      end()
      await iterator.return?.()
    }
  }

  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  if (reply.method === 'HEAD' || status === 204 || headers['content-length'] === '0') {
    message.resume()
    message.once('end', end)
    message.once('close', end)
  }

  const answer: Answer = {
    status,
    headers,
    url,
    body: { [Symbol.asyncIterator]: read },
    async bytes(limit) {
      const chunks: Uint8Array[] = []
      let size = 0
      const announced = Number(headers['content-length'] ?? 0)
      if (reply.method !== 'HEAD' && announced > limit) {
        end()
        throw tooLarge(url, limit)
      }
      for await (const chunk of answer.body) {
        size += chunk.length
        if (size > limit) throw tooLarge(url, limit)
        chunks.push(chunk)
      }
      return Buffer.concat(chunks, size)
    },
    async discard() {
      if (begun || ended) return end()
      const timer = setTimeout(() => message.destroy(), shortTime)
      let rest = shortRest
      try {
        for await (const chunk of answer.body) {
          rest -= chunk.length
          if (rest < 0) break
        }
      } catch (error) {
        if (signal.aborted) throw error
      } finally {
        clearTimeout(timer)
      }
    },
  }
  return answer
}

function tooLarge(url: URL, limit: number): BuilderError {
  return new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `${url.host} sends more than ${limit} bytes where that is the limit`,
  )
}
