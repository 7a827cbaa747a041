import { StringDecoder } from 'node:string_decoder'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Where answers come from: a terminal, or anything else that holds one per line. */
export interface AnswerSource extends AsyncIterable<Uint8Array> {
  readonly isTTY?: boolean
  setRawMode?(raw: boolean): unknown
}

export interface Prompts {
  /** undefined at the end of the input. */
  line(prompt: string): Promise<string | undefined>
  /** Shows nothing of what is typed. Fails with ISB_CANCELLED for Ctrl-C. */
  hidden(prompt: string): Promise<string | undefined>
  /** Nothing will be asked any more. */
  close(): Promise<void>
}

/** Characters of one answer. */
const limit = 64 * 1024

export function createPrompts(source: AnswerSource, write: (text: string) => void): Prompts {
  const pieces = source[Symbol.asyncIterator]()
  const decoder = new StringDecoder('utf8')
  let rest = ''
  let ended = false

  /** Adds what comes next to `rest`. */
  async function more(): Promise<void> {
    const piece = await pieces.next()
    if (piece.done === true) {
      ended = true
      rest += decoder.end()
    } else rest += decoder.write(Buffer.from(piece.value))
  }

  async function readLine(): Promise<string | undefined> {
    for (;;) {
      const end = rest.indexOf('\n')
      if (end >= 0 || (ended && rest !== '')) {
        const line = end >= 0 ? rest.slice(0, end) : rest
        rest = end >= 0 ? rest.slice(end + 1) : ''
        return line.replace(/\r$/, '')
      }
      if (ended) return undefined
      if (rest.length > limit) throw new BuilderError('ISB_LIMIT_EXCEEDED', 'the answer is too long')
      await more()
    }
  }

  /** What a terminal would do with each key, without showing it. */
  async function readKeys(): Promise<string | undefined> {
    const typed: string[] = []
    for (;;) {
      const keys = rest
      rest = ''
      let at = 0
      for (const key of keys) {
        at += key.length
        if (key === '\r' || key === '\n' || (key === '\u0004' && typed.length > 0)) {
          rest = keys.slice(at)
          return typed.join('')
        }
        if (key === '\u0004') return undefined
        if (key === '\u0003') throw new BuilderError('ISB_CANCELLED', 'interrupted')
        if (key === '\u007f' || key === '\b') typed.pop()
        else if (key === '\u0015') typed.length = 0
        else if (key >= ' ') typed.push(key)
      }
      if (ended) return undefined
      if (typed.length > limit) throw new BuilderError('ISB_LIMIT_EXCEEDED', 'the answer is too long')
      await more()
    }
  }

  return {
    line(prompt) {
      write(prompt)
      return readLine()
    },
    async hidden(prompt) {
      if (source.isTTY !== true || source.setRawMode === undefined) {
        write(prompt)
        const line = await readLine()
        write('\n')
        return line
      }
      // Before the prompt, after which somebody types.
      source.setRawMode(true)
      try {
        write(prompt)
        return await readKeys()
      } finally {
        source.setRawMode(false)
        write('\n')
      }
    },
    async close() {
      await pieces.return?.()
    },
  }
}
