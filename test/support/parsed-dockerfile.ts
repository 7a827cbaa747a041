import type { Instruction } from '../../packages/shared/src/dockerfile/instructions.js'
import { parseDockerfile } from '../../packages/shared/src/dockerfile/parser.js'
import { type BuilderError, isBuilderError } from '../../packages/shared/src/errors/builder-error.js'

/** The instructions behind `FROM a`. */
export function body(text: string): readonly Instruction[] {
  return parseDockerfile(`FROM a\n${text}`, 'Dockerfile').stages[0]?.instructions ?? []
}

export function one(text: string): Instruction {
  const [first, ...more] = body(text)
  if (first === undefined || more.length > 0) throw new Error(`${body(text).length} instructions`)
  return first
}

export function errorOf(work: () => unknown): BuilderError {
  try {
    work()
  } catch (error) {
    if (isBuilderError(error)) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

/** The text that the error of `text` points at. */
export function marked(text: string): string {
  const { source } = errorOf(() => parseDockerfile(text, 'Dockerfile')).details
  if (source === undefined) throw new Error('no source')
  const { start, end } = source
  if (start.line !== end.line) throw new Error('several lines')
  return (
    text
      .replace(/^\ufeff/, '')
      .split(/\r*\n/)
      [start.line - 1]?.slice(start.column, end.column) ?? ''
  )
}
