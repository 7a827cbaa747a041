import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { end, type Fault } from './faults.js'
import type { RecordedRequest } from './record.js'
import { type Reply, sizeOf, startOf, streamOf } from './reply.js'

/** One request and its answer, with the faults of the script on both. */
export interface Exchange {
  readonly request: RecordedRequest
  readonly message: IncomingMessage
  readonly response: ServerResponse
  readonly socket: Socket
  readonly fault: Fault
}

/** The answer to a request whose body broke off: there is nobody left to hear it. */
export class BodyLost extends Error {
  override readonly name = 'BodyLost'
  readonly reply: Reply | undefined
  constructor(reply?: Reply) {
    super('the body broke off')
    this.reply = reply
  }
}

/** Reads the body; false: it ended before its Content-Length. Fails with BodyLost where the script ends it. */
export function pourBody(
  { request, message, socket, fault }: Exchange,
  take: (bytes: Buffer) => void,
): Promise<boolean> {
  const { after = Number.POSITIVE_INFINITY, then, keep = true } = fault.receive ?? {}
  return new Promise((resolve, reject) => {
    const settle = (whole: boolean): void => {
      message.off('data', onData)
      resolve(whole)
    }
    const onData = (chunk: Buffer): void => {
      const rest = after - request.received
      request.received += chunk.length
      if (keep) take(chunk.subarray(0, Math.min(rest, chunk.length)))
      if (chunk.length < rest) return
      message.off('data', onData)
      message.pause()
      if (then === 'reset') end(socket, 'reset')
      reject(new BodyLost(typeof then === 'object' ? then : undefined))
    }
    message.on('data', onData)
    message.once('end', () => settle(message.complete))
    message.once('close', () => settle(message.complete))
  })
}

export async function readBody(exchange: Exchange, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  await pourBody(exchange, (chunk) => {
    size += chunk.length
    if (size <= limit) chunks.push(chunk)
  })
  return Buffer.concat(chunks)
}

/** Sends the answer as the script wants it; `told`: all of it was given to the connection, unchanged. */
export async function deliver(
  { request, message, response, socket, fault }: Exchange,
  answer: Reply,
  told: () => void,
): Promise<void> {
  const sent = message.method === 'HEAD' ? { ...answer, body: Buffer.alloc(0) } : answer
  const delivery = fault.deliver?.(sent) ?? { kind: 'whole' }
  request.status = answer.status
  if (response.destroyed || socket.destroyed) return
  // What is not read is thrown away, so that the connection can go on.
  if (!message.readableEnded && fault.receive === undefined) {
    message.on('data', (chunk: Buffer) => {
      request.received += chunk.length
    })
  }
  response.writeHead(answer.status, answer.headers)
  if (delivery.kind === 'cut') {
    await pour(request, response, startOf(sent.body, Math.min(delivery.after, sizeOf(sent.body))))
    if (delivery.how !== 'stall') breakConnection(socket, delivery.how)
    return
  }
  if (delivery.kind === 'trickle') {
    const { from, bytes, every } = delivery
    await pour(request, response, startOf(sent.body, from))
    for await (const chunk of streamOf(sent.body)) {
      const rest: Buffer = chunk.subarray(from)
      for (let at = 0; at < rest.length; at += bytes) {
        if (response.destroyed) return
        const piece = rest.subarray(at, at + bytes)
        response.write(piece)
        request.sent += piece.length
        await sleep(every)
      }
    }
    response.end()
    return
  }
  response.once('finish', () => {
    if (fault.change === undefined) told()
  })
  await pour(request, response, sent.body)
  response.end()
}

async function pour(request: RecordedRequest, response: ServerResponse, body: Reply['body']): Promise<void> {
  response.flushHeaders()
  const source = streamOf(body)
  source.on('data', (chunk: Buffer) => {
    request.sent += chunk.length
  })
  await pipeline(source, response, { end: false })
}

/** What was written goes out first. */
function breakConnection(socket: Socket, how: 'fin' | 'reset'): void {
  if (how === 'fin') socket.end()
  else setTimeout(() => end(socket, 'reset'), 50)
}
