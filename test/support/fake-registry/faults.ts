import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import type { Match, RecordedRequest } from './record.js'
import { partOf, type Reply, refusal, reply, sizeOf, startOf } from './reply.js'

/** How an answer's body goes out. */
export type Delivery =
  | { readonly kind: 'whole' }
  /** After `after` bytes the connection ends. */
  | { readonly kind: 'cut'; readonly after: number; readonly how: 'fin' | 'reset' | 'stall' }
  | { readonly kind: 'trickle'; readonly from: number; readonly bytes: number; readonly every: number }

/** What goes wrong with a request; everything else is as the protocol wants it. */
export interface Fault {
  /** Called with the request before anything of its body is read; what it gives is the answer. */
  readonly instead?: ((request: RecordedRequest) => Reply | Promise<Reply>) | undefined
  /** The honest answer goes through it. */
  readonly change?: ((honest: Reply, request: RecordedRequest) => Reply) | undefined
  readonly deliver?: ((sent: Reply) => Delivery) | undefined
  /** Nothing is sent, this gets the connection. */
  readonly raw?: ((socket: Socket) => void) | undefined
  /** Waited for before the request is looked at. */
  readonly wait?: (() => Promise<unknown>) | undefined
  /** The body of the request is read up to here, and then that happens; the registry keeps what came. */
  readonly receive?:
    | { readonly after: number; readonly then: 'reset' | 'stall' | Reply; readonly keep?: boolean }
    | undefined
  /** Range of the request is not seen. */
  readonly ignoreRange?: boolean | undefined
}

export interface FaultRule {
  readonly match: Match
  /** Requests that match and are left alone first; 0 when not given. */
  readonly skip?: number
  /** 1 when not given. */
  readonly times?: number
  readonly with: Fault | ((request: RecordedRequest, count: number) => Fault)
}

/** Bytes, or a share of the answer's body. */
export type Place = number | `${number}%`

function placeIn(place: Place, size: number): number {
  if (typeof place === 'number') return place < 0 ? Math.max(0, size + place) : Math.min(place, size)
  return Math.floor((size * Number(place.slice(0, -1))) / 100)
}

/** Another answer, the honest one is not even made. */
export function answers(status: number, headers: Reply['headers'] = {}, body = ''): Fault {
  return { instead: () => reply(status, headers, Buffer.from(body)) }
}

export function fails(status: number, headers: Reply['headers'] = {}): Fault {
  return { instead: () => refusal(status, 'UNKNOWN', `the script says ${status}`, headers) }
}

/** Ends early, well-formed: Content-Length says what comes. */
export function truncates(at: Place): Fault {
  return {
    change(honest) {
      const body = startOf(honest.body, placeIn(at, sizeOf(honest.body)))
      return { ...honest, headers: { ...honest.headers, 'content-length': String(sizeOf(body)) }, body }
    },
  }
}

/** Content-Length is right, the connection ends before. */
export function breaksOff(at: Place, how: 'fin' | 'reset' | 'stall' = 'fin'): Fault {
  return { deliver: ({ body }) => ({ kind: 'cut', after: placeIn(at, sizeOf(body)), how }) }
}

/** From a place in the body on, a few bytes at a time. */
export function trickles(bytes: number, every: number, from: Place = 0): Fault {
  return { deliver: ({ body }) => ({ kind: 'trickle', from: placeIn(from, sizeOf(body)), bytes, every }) }
}

/** The connection is reset before an answer. */
export const resets: Fault = { raw: (socket) => void end(socket, 'reset') }

/** Ended before an answer. */
export const hangsUp: Fault = { raw: (socket) => void end(socket, 'fin') }

/** No answer, ever. */
export const saysNothing: Fault = { raw: () => undefined }

/** A head without end. */
export function endlessHead(bytes: number, every: number): Fault {
  return {
    raw(socket) {
      socket.write('HTTP/1.1 200 OK\r\n')
      let count = 0
      const more = (): void => {
        socket.write(`x-${++count}: ${'a'.repeat(bytes)}\r\n`)
      }
      const timer = setInterval(more, every)
      socket.once('close', () => clearInterval(timer))
    },
  }
}

/** Right length, one bit of the body is another. */
export function flips(at: Place = 0): Fault {
  return {
    change(honest) {
      const body = Buffer.from(bytesOf(honest))
      if (body.length === 0) return honest
      const place = placeIn(at, body.length - 1)
      body[place] = (body[place] ?? 0) ^ 1
      return { ...honest, body }
    },
  }
}

/** The honest answer with other headers; undefined takes one away. */
export function headers(changes: Readonly<Record<string, string | undefined>>): Fault {
  return { change: (honest) => withHeaders(honest, changes) }
}

export function redirects(to: string | ((request: RecordedRequest) => string), status = 307): Fault {
  return {
    instead: (request) => reply(status, { location: typeof to === 'string' ? to : to(request) }),
  }
}

/** The Location of the honest answer goes through `change`. */
export function relocates(change: (location: string) => string): Fault {
  return {
    change: (honest) => withHeaders(honest, { location: change(honest.headers['location'] ?? '') }),
  }
}

/** What a body of this many bytes would be, then the connection breaks; the registry keeps what it has. */
export function loses(after: number, then: 'reset' | 'stall' | Reply = 'reset', keep = true): Fault {
  return { receive: { after, then, keep } }
}

export function waits(ms: number): Fault {
  return { wait: () => new Promise((resolve) => setTimeout(resolve, ms)) }
}

/** A request is answered when `until` is settled. */
export function holds(until: Promise<unknown>): Fault {
  return { wait: () => until }
}

/** 206 with a part that nobody asked for. */
export function partial(start: number, end: number, contentRange: string): Fault {
  return {
    change: (honest) => {
      const whole = honest.body
      const body = partOf(whole, start, Math.min(end, sizeOf(whole)) - start)
      return reply(206, { 'content-range': contentRange }, body)
    },
    ignoreRange: true,
  }
}

export function withHeaders(honest: Reply, changes: Readonly<Record<string, string | undefined>>): Reply {
  const all = Object.entries({ ...honest.headers, ...changes })
  const rest = all.filter((entry): entry is [string, string] => entry[1] !== undefined)
  return { ...honest, headers: Object.fromEntries(rest) }
}

function bytesOf({ body }: Reply): Buffer {
  if (Buffer.isBuffer(body)) return body
  return readFileSync(body.path).subarray(body.start, body.start + body.size)
}

export function end(socket: Socket, how: 'fin' | 'reset'): void {
  // TLS connections know no reset of their own.
  if (how === 'fin') socket.end()
  else if ('encrypted' in socket) socket.destroy()
  else socket.resetAndDestroy()
}

interface ActiveRule {
  readonly rule: FaultRule
  seen: number
  used: number
}

/** Faults of a registry in the order they were asked for; the first that matches a request has it. */
export interface Script {
  add(rule: FaultRule): { readonly used: () => number; remove(): void }
  faultFor(request: RecordedRequest, matches: (match: Match, request: RecordedRequest) => boolean): Fault
  clear(): void
}

export function createScript(): Script {
  const rules: ActiveRule[] = []
  return {
    add(rule) {
      const active = { rule, seen: 0, used: 0 }
      rules.push(active)
      return {
        used: () => active.used,
        remove: () => void rules.splice(0, rules.length, ...rules.filter((one) => one !== active)),
      }
    },
    faultFor(request, matches) {
      for (const active of rules) {
        const { rule } = active
        if (active.used >= (rule.times ?? 1) || !matches(rule.match, request)) continue
        active.seen++
        if (active.seen <= (rule.skip ?? 0)) continue
        active.used++
        return typeof rule.with === 'function' ? rule.with(request, active.used) : rule.with
      }
      return {}
    },
    clear: () => void rules.splice(0),
  }
}
