import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { parseSize } from '@isula-build/shared/text/units.js'
import type { FlagReader, Invocation } from '../cli/command.js'
import { durationMilliseconds } from '../cli/durations.js'
import { createPrompts } from '../credentials/prompts.js'
import { prunedLine, totalLines } from '../output/prune-report.js'
import { withConnection } from '../session.js'
import { printLine, warnLine, warnText } from '../terminal.js'

export async function runPrune({ flags }: Invocation): Promise<number> {
  const request = {
    all: flags.bool('all'),
    dryRun: flags.bool('dry-run'),
    keepBytes: keptBytes(flags.string('keep-storage')),
    unusedFor: unusedTime(flags.strings('filter')),
  }
  if (!request.dryRun && !(await isConfirmed(flags, request.all))) {
    warnLine('Nothing was removed.')
    return 1
  }
  return await withConnection(flags, async (connection) => {
    for await (const { event } of connection.stream(builderService.Prune, request)) {
      if (event?.case === 'removed') printLine(prunedLine(event.value, request.dryRun, Date.now()))
      if (event?.case === 'summary') {
        for (const line of totalLines(event.value, request.dryRun)) printLine(line)
      }
    }
    return 0
  })
}

/** On a terminal the user is asked. */
async function isConfirmed(flags: FlagReader, all: boolean): Promise<boolean> {
  if (flags.bool('force') || process.stdin.isTTY !== true) return true
  const what = all ? 'the build cache, cache mounts and unused downloads' : 'the build cache'
  const prompts = createPrompts(process.stdin, warnText)
  try {
    const answer = await prompts.line(`Remove ${what}, but for what images use? [y/N] `)
    return /^\s*y(?:es)?\s*$/i.test(answer ?? '')
  } finally {
    await prompts.close()
  }
}

function keptBytes(text: string): number {
  if (text === '') return 0
  const bytes = parseSize(text)
  if (bytes !== undefined) return bytes
  throw invalid(
    `invalid argument ${JSON.stringify(text)} for "--keep-storage" flag`,
    'Use a size like 10GB or 512MiB.',
  )
}

/** The strictest of `until=DURATION`, milliseconds. */
function unusedTime(filters: readonly string[]): number {
  return Math.max(0, ...filters.map(unusedFor))
}

function unusedFor(filter: string): number {
  const [, duration = ''] = /^until=(.+)$/s.exec(filter) ?? []
  const milliseconds = durationMilliseconds(duration)
  if (milliseconds !== undefined && Number.isSafeInteger(Math.round(milliseconds)))
    return Math.round(milliseconds)
  throw invalid(
    `invalid filter ${JSON.stringify(filter)}`,
    'Use until=DURATION, such as until=24h or until=7d.',
  )
}

function invalid(message: string, hint: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, { hint })
}
