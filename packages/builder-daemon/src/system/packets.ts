import { closeSync } from 'node:fs'
import { receiveMessage, sendMessage } from './sockets.js'

/**
 * JSON values with descriptors over a SOCK_SEQPACKET socket. Strings are latin1 bytes, one byte per
 * character on the wire too. A value longer than a packet is cut; the first byte of every packet says
 * whether more follow, and the descriptors travel with the last.
 */

const PACKET_BYTES = 64 * 1024
const MORE = 1
const LAST = 0

export interface ReceivedValue {
  readonly value: unknown
  /** The receiver's to close. */
  readonly descriptors: readonly number[]
}

/** With `wait` false, false means that the socket was full before the first packet left. */
export function sendValue(
  fd: number,
  value: unknown,
  descriptors: readonly number[] = [],
  wait = true,
): boolean {
  const bytes = Buffer.from(JSON.stringify(value), 'latin1')
  for (let at = 0; at === 0 || at < bytes.length; at += PACKET_BYTES - 1) {
    const part = bytes.subarray(at, at + PACKET_BYTES - 1)
    const isLast = at + part.length >= bytes.length
    const packet = Buffer.concat([Buffer.from([isLast ? LAST : MORE]), part])
    const mayRefuse = !wait && at === 0
    if (!sendMessage(fd, packet, isLast ? descriptors : [], !mayRefuse)) return false
  }
  return true
}

/** Puts packets together again; one per socket. `limit` bounds one value in bytes. */
export class ValueReceiver {
  readonly #packet = Buffer.allocUnsafeSlow(PACKET_BYTES)
  #parts: Buffer[] = []
  #length = 0

  constructor(
    readonly fd: number,
    readonly limit: number,
  ) {}

  /**
   * The next value; 'none' when there is none now (only without `wait`), 'closed' at the end of the
   * connection. Throws on packets that are no values, after which the socket is of no use.
   */
  receive(wait: boolean): ReceivedValue | 'none' | 'closed' {
    for (;;) {
      const message = receiveMessage(this.fd, this.#packet, wait)
      if (message === undefined) return 'none'
      if (message.length === 0) return 'closed'
      const kind = this.#packet[0]
      try {
        if (message.truncated || (kind !== MORE && kind !== LAST)) throw new Error('malformed packet')
        if (kind === MORE && message.descriptors.length > 0) throw new Error('misplaced descriptors')
        this.#length += message.length - 1
        if (this.#length > this.limit) throw new Error('value too long')
        this.#parts.push(Buffer.from(this.#packet.subarray(1, message.length)))
        if (kind === LAST) return { value: this.#take(), descriptors: message.descriptors }
      } catch (error) {
        for (const descriptor of message.descriptors) closeSync(descriptor)
        throw error
      }
    }
  }

  #take(): unknown {
    const text = Buffer.concat(this.#parts).toString('latin1')
    this.#parts = []
    this.#length = 0
    return JSON.parse(text)
  }
}
