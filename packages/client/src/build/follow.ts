import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { decodeBuildEvent } from '@isula-build/shared/rpc/build-event.js'
import type { BuildOptionsMessage, ContextSource } from '@isula-build/shared/rpc/build-messages.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Connection } from '../connect.js'
import { answerTo, type Logins } from '../credentials/logins.js'
import type { OutputSink } from '../output/output-sink.js'
import { frames } from '../upload.js'
import { AgentForwarder } from './agents.js'
import { createOutputStreams } from './output-streams.js'
import type { ProgressView } from './plain-progress.js'

/** A context of this client, and how to send it when the daemon asks. */
export interface LocalContext {
  readonly source: ContextSource
  readonly pack: () => AsyncIterable<Uint8Array>
}

export interface BuildCall {
  readonly options: BuildOptionsMessage
  readonly contexts: ReadonlyMap<string, LocalContext>
  /** Id of an ssh agent to its socket. */
  readonly agents: ReadonlyMap<string, string>
  readonly logins: Logins
  /** Where streamed outputs go, by their index in the options. */
  readonly sinks: ReadonlyMap<number, () => OutputSink>
  readonly view: ProgressView
}

export interface BuildResult {
  readonly imageId: string
  readonly names: readonly string[]
}

const cancelSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Runs one build on the daemon: shows its events, sends what it asks for. A signal cancels it. */
export async function followBuild(
  connection: Connection,
  { options, contexts, agents, logins, sinks, view }: BuildCall,
): Promise<BuildResult> {
  const call = connection.duplex(builderService.Build)
  const outputs = createOutputStreams(sinks, (output, error) =>
    call.write({ payload: { case: 'outputAck', value: { output, error } } }),
  )
  const cancel = (): void => {
    call.cancel()
    outputs.abort()
  }
  for (const signal of cancelSignals) process.once(signal, cancel)
  /** What went wrong on this side, and ended the call. */
  let ownError: unknown
  const failing = (error: unknown): void => {
    ownError = error
    call.cancel()
  }
  const upload = async (name: string): Promise<void> => {
    const context = contexts.get(name)
    if (context === undefined) throw new Error(`the daemon asked for an unknown context "${name}"`)
    for await (const data of frames(context.pack())) {
      if (!(await call.write({ payload: { case: 'context', value: { name, data, end: false } } }))) return
    }
    await call.write({ payload: { case: 'context', value: { name, data: new Uint8Array(), end: true } } })
  }
  using forwarder = new AgentForwarder(agents, (value) => call.write({ payload: { case: 'agent', value } }))
  try {
    await call.write({ payload: { case: 'options', value: options } })
    let result: BuildResult | undefined
    for await (const { payload } of call.responses) {
      switch (payload?.case) {
        case 'event': {
          const event = decodeBuildEvent(payload.value)
          if (event !== undefined) await view.show(outputs.placed(event))
          break
        }
        case 'needContext':
          upload(payload.value.name).catch(failing)
          break
        case 'needCredentials':
          answerTo(payload.value, logins)
            .then((value) => call.write({ payload: { case: 'credentials', value } }))
            .catch(failing)
          break
        case 'output':
          await outputs.receive(payload.value)
          break
        case 'agent':
          await forwarder.receive(payload.value)
          break
        case 'result':
          result = payload.value
          call.end()
          break
        case undefined:
          break
      }
    }
    if (result === undefined)
      throw new BuilderError('ISB_INTERNAL', 'the daemon ended the build without a result')
    return result
  } catch (error) {
    call.cancel()
    throw ownError ?? outputs.failure ?? error
  } finally {
    outputs.abort()
    for (const signal of cancelSignals) process.removeListener(signal, cancel)
  }
}
