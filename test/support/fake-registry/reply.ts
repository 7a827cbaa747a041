import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'

/** A part of a file. */
export interface FilePart {
  readonly path: string
  readonly start: number
  readonly size: number
}

export type ReplyBody = Buffer | FilePart

/** An answer before it is sent. */
export interface Reply {
  readonly status: number
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: ReplyBody
}

export const empty = Buffer.alloc(0)

export function reply(status: number, headers: Reply['headers'] = {}, body: ReplyBody = empty): Reply {
  return { status, headers: { 'content-length': String(sizeOf(body)), ...headers }, body }
}

/** An error in the words of the distribution spec ("Error Codes"). */
export function refusal(
  status: number,
  code: string,
  message: string,
  headers: Reply['headers'] = {},
): Reply {
  const body = Buffer.from(JSON.stringify({ errors: [{ code, message, detail: null }] }))
  return reply(status, { 'content-type': 'application/json', ...headers }, body)
}

export function sizeOf(body: ReplyBody): number {
  return Buffer.isBuffer(body) ? body.length : body.size
}

/** The first bytes of it. */
export function startOf(body: ReplyBody, size: number): ReplyBody {
  return Buffer.isBuffer(body) ? body.subarray(0, size) : { ...body, size }
}

export function partOf(body: ReplyBody, start: number, size: number): ReplyBody {
  if (Buffer.isBuffer(body)) return body.subarray(start, start + size)
  return { path: body.path, start: body.start + start, size }
}

export function streamOf(body: ReplyBody): Readable {
  if (Buffer.isBuffer(body)) return Readable.from(body.length === 0 ? [] : [body], { objectMode: false })
  if (body.size === 0) return Readable.from([], { objectMode: false })
  const { path, start, size } = body
  return createReadStream(path, { start, end: start + size - 1, highWaterMark: 1 << 20 })
}
