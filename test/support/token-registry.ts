import { startFakeRegistry } from './fake-registry.js'

/**
 * A registry that wants tokens, as a process of its own: `node token-registry.mjs USER PASSWORD` with a channel to its
 * parent. Says its host once it listens, then answers every message with the requests so far, as lines
 * `METHOD /path?query status bytes`. Ends with the channel.
 */
const [user = '', password = ''] = process.argv.slice(2)
const auth = { kind: 'token', users: { [user]: password } } as const
const registry = await startFakeRegistry({ auth, tokenServer: {} })
process.on('message', () => {
  const lines = registry.requests.map(({ method, path, query, status, sent }) => {
    const asked = query.size === 0 ? '' : `?${query}`
    return `${method} ${path}${asked} ${status} ${sent}`
  })
  process.send?.([...lines, ...registry.violations.map((violation) => `VIOLATION ${violation}`)])
})
process.once('disconnect', () => {
  void registry[Symbol.asyncDispose]().then(() => process.exit())
})
process.send?.(registry.host)
