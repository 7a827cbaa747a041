import type { TransferEventMessage } from '@isula-build/shared/rpc/transfer-messages.js'
import type { Logins } from '../credentials/logins.js'
import { printLine, terminal, warnText } from '../terminal.js'
import { type AskingCall, conversation } from './conversation.js'
import { quietView, transferView } from './view.js'

export interface Pushed {
  readonly reference: string
  readonly digest: string
}

export interface TransferResult {
  /** IDs of the images that are in the store now. */
  readonly stored: readonly string[]
  readonly pushed: readonly Pushed[]
}

interface Following<Options> {
  readonly options: Options
  readonly logins: Logins
  readonly quiet: boolean
}

/** Shows a transfer to its end. */
export async function followTransfer<Options>(
  call: AskingCall<Options, TransferEventMessage>,
  { options, logins, quiet }: Following<Options>,
): Promise<TransferResult> {
  const view = quiet
    ? quietView
    : transferView({
        print: printLine,
        draw: terminal.drawable ? warnText : undefined,
        width: () => terminal.width,
      })
  const stored: string[] = []
  const pushed: Pushed[] = []
  try {
    for await (const event of conversation(call, options, logins)) {
      switch (event.case) {
        case 'log':
          view.line(event.value)
          break
        case 'progress': {
          const { digest, done, total } = event.value
          view.progress(digest, done, total)
          break
        }
        case 'stored':
          stored.push(event.value.id)
          break
        case 'pushed':
          pushed.push(event.value)
          break
      }
    }
    return { stored, pushed }
  } finally {
    view.end()
  }
}
