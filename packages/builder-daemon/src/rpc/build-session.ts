import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type BuildRequest, type BuildResponse, maxChunk } from '@isula-build/shared/rpc/build-messages.js'
import { type Channel, createChannel } from './channel.js'
import { createCredentialQuestions } from './credential-questions.js'
import type { AgentConnection, BuildClient, BuildOptions, OutputStream } from './handlers.js'
import { invalid } from './request-checks.js'

export interface BuildSession {
  readonly client: BuildClient
  /** Hands the client's frames to whom they belong until they end. Fails on frames nobody asked for. */
  receive(frames: AsyncIterable<BuildRequest>): Promise<void>
  /** Fails everything that still waits for the client. */
  end(reason: unknown): void
}

/** Frames of one source that nobody has read yet. */
const backlog = 4

/** The client's side of one build, over its stream of frames. */
export function createBuildSession(options: BuildOptions, outbound: Channel<BuildResponse>): BuildSession {
  const contexts = new Map<string, Channel<Uint8Array>>()
  const outputs = new Map<number, Acknowledgement>()
  const agents = new Map<number, Channel<Uint8Array>>()
  let lastConnection = 0
  let ended: { readonly reason: unknown } | undefined

  const send = async (response: BuildResponse): Promise<void> => {
    if (ended !== undefined) throw ended.reason
    if (!(await outbound.push(response))) throw gone()
  }

  const questions = createCredentialQuestions((value) =>
    send({ payload: { case: 'needCredentials', value } }),
  )

  const client: BuildClient = {
    credentials: questions.client.credentials,

    streamContext(name) {
      if (contexts.has(name)) throw new Error(`context ${JSON.stringify(name)} is asked for twice`)
      const chunks = createChannel<Uint8Array>(backlog)
      contexts.set(name, chunks)
      if (ended !== undefined) chunks.fail(ended.reason)
      return (async function* () {
        await send({ payload: { case: 'needContext', value: { name } } })
        yield* chunks
      })()
    },

    openOutput(index) {
      const output = options.outputs[index]
      if (output === undefined || !('target' in output) || output.target.kind !== 'stream')
        throw new Error(`output ${index} is no stream`)
      if (outputs.has(index)) throw new Error(`output ${index} is opened twice`)
      const acknowledgement = createAcknowledgement()
      outputs.set(index, acknowledgement)
      return outputStream(index, acknowledgement, send)
    },

    openAgent(agent) {
      if (!options.sshAgents.includes(agent)) {
        throw new BuilderError(
          'ISB_ARGUMENT_INVALID',
          `the client forwards no agent ${JSON.stringify(agent)}`,
          {
            hint: `Pass --ssh ${agent}.`,
          },
        )
      }
      const connection = ++lastConnection
      const received = createChannel<Uint8Array>(backlog)
      agents.set(connection, received)
      if (ended !== undefined) received.fail(ended.reason)
      return agentConnection({ agent, connection, received, send, forget: () => agents.delete(connection) })
    },
  }

  async function dispatch({ payload }: BuildRequest): Promise<void> {
    switch (payload?.case) {
      case 'context': {
        const { name, data, end } = payload.value
        const chunks = contexts.get(name)
        if (chunks === undefined) throw invalid(`nobody asked for context ${JSON.stringify(name)}`)
        await deliver(chunks, data)
        if (end) chunks.close()
        return
      }
      case 'agent': {
        const { connection, data, end } = payload.value
        if (connection > lastConnection) throw invalid(`there is no agent connection ${connection}`)
        const received = agents.get(connection)
        // The daemon may have closed it while this frame was on its way.
        if (received === undefined) return
        await deliver(received, data)
        if (end) received.close()
        return
      }
      case 'outputAck': {
        const { output, error } = payload.value
        const acknowledgement = outputs.get(output)
        if (acknowledgement === undefined) throw invalid(`nobody sent output ${output}`)
        acknowledgement.settle(
          error === ''
            ? undefined
            : new BuilderError('ISB_COPY_FAILED', `the client could not write its output: ${error}`),
        )
        return
      }
      case 'credentials':
        questions.answer(payload.value)
        return
      case 'options':
        throw invalid('the options of a build come once')
      case undefined:
        throw invalid('a frame is empty, or of a kind this daemon does not know')
    }
  }

  function end(reason: unknown): void {
    ended ??= { reason }
    for (const chunks of contexts.values()) chunks.fail(reason)
    for (const received of agents.values()) received.fail(reason)
    for (const acknowledgement of outputs.values()) acknowledgement.settle(reason)
    questions.fail(reason)
  }

  return {
    client,
    async receive(frames) {
      for await (const frame of frames) await dispatch(frame)
      end(new BuilderError('ISB_CONTEXT_INVALID', 'the client stopped sending before the build was done'))
    },
    end,
  }
}

async function deliver(channel: Channel<Uint8Array>, data: Uint8Array): Promise<void> {
  if (data.length > maxChunk) throw invalid(`a frame holds more than ${maxChunk} bytes`)
  if (data.length > 0) await channel.push(data)
}

function gone(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'the client went away')
}

interface Acknowledgement {
  /** Rejects when the client cannot write. */
  readonly settled: Promise<void>
  readonly failure: () => unknown
  /** undefined: everything is written. */
  settle(failure: unknown): void
}

function createAcknowledgement(): Acknowledgement {
  let failure: unknown
  let resolve: () => void = () => undefined
  let reject: (error: unknown) => void = () => undefined
  const settled = new Promise<void>((yes, no) => {
    resolve = yes
    reject = no
  })
  // A failure nobody waits for yet is reported by the next write.
  settled.catch(() => undefined)
  return {
    settled,
    failure: () => failure,
    settle(error) {
      if (error === undefined) resolve()
      else {
        failure ??= error
        reject(error)
      }
    },
  }
}

type Send = (response: BuildResponse) => Promise<void>

function outputStream(output: number, acknowledgement: Acknowledgement, send: Send): OutputStream {
  return {
    async write(chunk) {
      for (let at = 0; at < chunk.length; at += maxChunk) {
        const failure = acknowledgement.failure()
        if (failure !== undefined) throw failure
        // The frame is encoded later, when the writer may have filled its buffer anew.
        const data = Buffer.from(chunk.subarray(at, at + maxChunk))
        await send({ payload: { case: 'output', value: { output, data } } })
      }
    },
    async finish() {
      await send({ payload: { case: 'output', value: { output, end: true } } })
      await acknowledgement.settled
    },
  }
}

function agentConnection(options: {
  readonly agent: string
  readonly connection: number
  readonly received: Channel<Uint8Array>
  readonly send: Send
  readonly forget: () => void
}): AgentConnection {
  const { agent, connection, received, send } = options
  const frame = (value: { data?: Uint8Array; end?: boolean }): Promise<void> =>
    send({ payload: { case: 'agent', value: { agent, connection, ...value } } })
  const opened = frame({})
  opened.catch((error: unknown) => received.fail(error))
  return {
    received,
    async send(data) {
      await opened
      for (let at = 0; at < data.length; at += maxChunk) {
        await frame({ data: Buffer.from(data.subarray(at, at + maxChunk)) })
      }
    },
    async close() {
      options.forget()
      received.close()
      await opened
      await frame({ end: true })
    },
  }
}
