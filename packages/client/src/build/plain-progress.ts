import type { CacheReason } from '@isula-build/shared/progress/cache-reason.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { reasonText } from '@isula-build/shared/progress/reason-text.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'

/** Shows a build in the original's shape: steps as they come, raw output between them. */
export interface ProgressView {
  show(event: BuildEvent): Promise<void>
}

/** `write` resolves when more may come. */
export function plainProgress(write: (data: Uint8Array) => Promise<void>): ProgressView {
  let endsLine = true
  const line = async (text: string): Promise<void> => {
    // Output without a last line feed does not run into the next line.
    const start = endsLine ? '' : '\n'
    endsLine = true
    await write(Buffer.from(`${start}${text}\n`))
  }
  return {
    async show(event) {
      switch (event.kind) {
        case 'queued':
          return await line(
            `Waiting for ${event.position} other ${event.position === 1 ? 'build' : 'builds'}`,
          )
        case 'step-started':
          return await line(`STEP ${String(event.step).padStart(2)}: ${event.text}`)
        case 'step-finished':
          if (event.outcome === 'cached') await line(' ---> Using cache')
          else if (event.cache?.status === 'miss' && isNews(event.cache.reason)) {
            await line(` ---> Not from the cache: ${displayLine(reasonText(event.cache.reason))}`)
          }
          return
        case 'output':
          if (event.data.length === 0) return
          // One line of a transfer, which may quote a registry.
          if (event.step === 0) return await line(transferLine(event.data))
          await write(event.data)
          endsLine = event.data.at(-1) === 0x0a
          return
        case 'stage-committed':
          return await line(`Committed stage ${event.stage} with ID: ${event.imageId}`)
        case 'warning':
          return await line(`[Warning] ${displayLine(event.message)}`)
        case 'exported':
          return await line(`Exported to ${event.output}`)
        case 'finished':
        case 'failed':
          if (!endsLine) await write(Buffer.from('\n'))
          endsLine = true
          return
        case 'started':
        case 'step-skipped':
          return
      }
    },
  }
}

/** What is the case for everything that follows, or was asked for, is not worth a line. */
function isNews({ kind }: CacheReason): boolean {
  return kind !== 'never-built' && kind !== 'parent-missed' && kind !== 'no-cache'
}

function transferLine(data: Uint8Array): string {
  return displayLine(Buffer.from(data).toString('utf8').replace(/\n$/, ''))
}

/** `-q`: nothing but what went wrong, which the error says. */
export const quietProgress: ProgressView = { show: async () => undefined }
