import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { codeEntry } from '@isula-build/shared/errors/codes.js'
import { renderable, renderError } from '@isula-build/shared/errors/render.js'
import { terminal, warnLine } from './terminal.js'

/**
 * Shows the error on standard error; gives the exit code of its kind, for a failed RUN the command's own.
 * With `trace` also where an internal error was thrown.
 */
export function reportError(error: unknown, options: { readonly trace: boolean }): number {
  const shown = isBuilderError(error) ? error : internal(error)
  const { color, width } = terminal
  // Scripts that read the original's messages find the cause first, as it wrote it.
  warnLine(renderError(renderable(shown), { color, width, bare: !color }).join('\n'))
  if (options.trace && !isBuilderError(error) && error instanceof Error) warnLine(error.stack ?? '')
  return exitCode(shown)
}

export function exitCode(error: BuilderError): number {
  const { exitCode: own } = error.details
  if (error.code === 'ISB_STEP_FAILED' && own !== undefined && own > 0 && own < 256) return own
  return codeEntry(error.code).exit
}

function internal(error: unknown): BuilderError {
  const message = error instanceof Error ? error.message : String(error)
  return new BuilderError('ISB_INTERNAL', message, { hint: 'Please report this.' })
}
