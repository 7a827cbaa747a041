import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import {
  expandHeredoc,
  processWord,
  processWords,
  type WordEnvironment,
} from '@isula-build/shared/dockerfile/words.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Variable expansion for one plan, with a limit on what all of it may produce together. */
export interface Expander {
  word(text: string, env: WordEnvironment): string
  /** Split at unquoted white space. */
  words(text: string, env: WordEnvironment): readonly string[]
  /** The body of a COPY or ADD here-document: quotes are text. */
  heredoc(text: string, env: WordEnvironment): string
}

/** Characters all expansions of one Dockerfile may produce: `ENV A=$A$A` doubles with every line. */
const maxExpanded = 32 * 1024 * 1024

export function createExpander(escapeCharacter: '\\' | '`'): Expander {
  const options = { escape: escapeCharacter }
  let produced = 0
  const counted = (result: string): string => {
    produced += result.length
    if (produced <= maxExpanded) return result
    throw new BuilderError('ISB_LIMIT_EXCEEDED', 'variables expand to more than 32 MiB in this Dockerfile', {
      hint: 'Shorten the values of ARG and ENV.',
    })
  }
  return {
    word: (text, env) => counted(processWord(text, env, options).result),
    words: (text, env) => processWords(text, env, options).map(counted),
    heredoc: (text, env) => counted(expandHeredoc(text, env).result),
  }
}

/** Runs `work`; an error that does not say where it happened gets `source`, which is looked for only then. */
export function located<T>(source: () => SourceRange, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw withSource(error, source())
  }
}

export function withSource(error: unknown, source: SourceRange): unknown {
  if (!(error instanceof BuilderError) || error.details.source !== undefined) return error
  return error.with({ source })
}
