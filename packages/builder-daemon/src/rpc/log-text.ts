import { StringDecoder } from 'node:string_decoder'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'

/**
 * Text of a build as the original's client prints it: one call per event, in order. Output of a RUN
 * comes as it is, what is not UTF-8 as U+FFFD. '' for events without text.
 */
export function createLogText(iidFile: string | undefined): (event: BuildEvent) => string {
  let decoder = new StringDecoder('utf8')
  return (event) => {
    switch (event.kind) {
      case 'step-started':
        decoder = new StringDecoder('utf8')
        return `STEP ${String(event.step).padStart(2)}: ${event.text}\n`
      case 'output':
        // One line of a transfer, which may quote a registry.
        if (event.step === 0) return `${displayLine(Buffer.from(event.data).toString('utf8').trimEnd())}\n`
        return decoder.write(Buffer.from(event.data))
      case 'step-finished':
        return decoder.end()
      case 'stage-committed':
        return `Committed stage ${event.stage} with ID: ${event.imageId}\n`
      case 'warning':
        return `[Warning] ${displayLine(event.message)}\n`
      case 'finished':
        return iidFile === undefined
          ? `Build success with image id: ${event.imageId}\n`
          : `Write image ID [${event.imageId}] to file: ${iidFile}\n`
      default:
        return ''
    }
  }
}
