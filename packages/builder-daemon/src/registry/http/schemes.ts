import { endpointRoot, isLoopbackHost } from './hosts.js'
import { NoAnswer } from './no-answer.js'
import { RecentMap } from './recent-map.js'

export type Scheme = 'https' | 'http'

/** Finds out whether hosts that may speak plain HTTP do. */
export interface Schemes {
  /**
   * Calls `send` with the root of the endpoint. Where plain HTTP is allowed: what worked last time, else https first, then
   * http if the other side does not speak TLS; everywhere else https. `send` calls `answered` when the endpoint itself
   * has answered: what fails after that tells nothing about its scheme. There is nothing to find out where the scheme is
   * stated, or the request goes elsewhere.
   */
  reach<T>(
    host: string,
    plainAllowed: boolean,
    stated: Scheme | 'elsewhere' | undefined,
    send: (root: URL, answered: () => void) => Promise<T>,
  ): Promise<T>
}

export function createSchemes(): Schemes {
  const known = new RecentMap<Scheme>()

  return {
    async reach(host, plainAllowed, stated, send) {
      const secure = endpointRoot(host, 'https')
      if (!plainAllowed) return send(secure, () => {})
      if (stated === 'elsewhere') return send(endpointRoot(host, known.get(host) ?? 'https'), () => {})
      if (stated !== undefined) return send(endpointRoot(host, stated), () => known.set(host, stated))
      let answered = false
      const attempt = async (tried: Scheme) => {
        try {
          return await send(endpointRoot(host, tried), () => {
            answered = true
            known.set(host, tried)
          })
        } catch (error) {
          if (!answered && speaksOtherwise(error) && known.get(host) === tried) known.delete(host)
          throw error
        }
      }
      if (known.get(host) === 'http') return attempt('http')
      try {
        return await attempt('https')
      } catch (error) {
        if (answered || !(error instanceof NoAnswer) || error.details.noTls !== true) throw error
        try {
          return await attempt('http')
        } catch (plain) {
          throw plain instanceof NoAnswer && !answered ? both(secure, error, plain) : plain
        }
      }
    },
  }
}

/** Not connected, or not understood; a connection that broke after it was made says nothing. */
function speaksOtherwise(error: unknown): boolean {
  return error instanceof NoAnswer && (error.details.noTls === true || !error.details.transient)
}

function both(root: URL, secure: NoAnswer, plain: NoAnswer): NoAnswer {
  const message =
    secure.message === plain.message ? plain.message : `https: ${secure.message}; http: ${plain.message}`
  // Nobody is about to listen on port 80 of this machine; `localhost/NAME` is tried for every short name.
  const nobody = isLoopbackHost(root) && root.port === '' && /refused/.test(plain.message)
  return new NoAnswer(message, { ...plain.details, transient: plain.details.transient && !nobody })
}
