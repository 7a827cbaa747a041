import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bundleEntry } from './bundled-worker.js'
import { account, type RealRegistry, startRealRegistry } from './real-registry.js'

/** A registry of any kind, as far as tests of interoperation look at it. */
export interface KindOfRegistry extends AsyncDisposable {
  readonly host: string
  /** Whether a stranger is refused. */
  readonly isPrivate: boolean
  /** For skopeo: how it is spoken to, by somebody who may. */
  readonly skopeoFlags: readonly string[]
  /** `METHOD /path?query status bytes` of the answers so far. */
  requests(): Promise<readonly string[]>
  /** From now on, or no longer, no answer gets anywhere. */
  hold(): void
  release(): void
}

const skopeoLogin = `--creds=${account.username}:${account.password}`

function ofReal(registry: RealRegistry, skopeoFlags: readonly string[], isPrivate: boolean): KindOfRegistry {
  return {
    ...{ host: registry.host, isPrivate, skopeoFlags },
    requests: async () => registry.requests(),
    hold: () => void process.kill(registry.pid, 'SIGSTOP'),
    release: () => void process.kill(registry.pid, 'SIGCONT'),
    [Symbol.asyncDispose]: () => registry[Symbol.asyncDispose](),
  }
}

async function ofTokens(): Promise<KindOfRegistry> {
  const { username, password } = account
  const entry = fileURLToPath(await bundleEntry('test/support/token-registry.ts'))
  const child = fork(entry, [username, password], { execArgv: [] })
  const [host] = (await once(child, 'message')) as [string]
  const isOurs = { isPrivate: true, skopeoFlags: ['--tls-verify=false', skopeoLogin] }
  return {
    ...{ host, ...isOurs },
    async requests() {
      const answer = once(child, 'message') as Promise<[readonly string[]]>
      child.send('requests')
      return (await answer)[0]
    },
    hold: () => void child.kill('SIGSTOP'),
    release: () => void child.kill('SIGCONT'),
    async [Symbol.asyncDispose]() {
      const ended = once(child, 'exit')
      child.disconnect()
      await ended
    },
  }
}

/** `certificates`: the configuration directory of the daemon that is to know it, and a directory for files of skopeo. */
export const registryKinds: Readonly<
  Record<
    string,
    (certificates: { readonly daemon: string; readonly skopeo: string }) => Promise<KindOfRegistry>
  >
> = {
  'plain HTTP': async () => ofReal(await startRealRegistry(), ['--tls-verify=false'], false),
  'TLS with client certificates': async ({ daemon, skopeo }) => {
    const registry = await startRealRegistry({ tls: true })
    for (const directory of [join(daemon, 'certs.d', registry.host), skopeo]) {
      mkdirSync(directory, { recursive: true })
      for (const [name, text] of Object.entries(registry.certificates ?? {})) {
        writeFileSync(join(directory, name), text)
      }
    }
    return ofReal(registry, [`--cert-dir=${skopeo}`], false)
  },
  htpasswd: async () =>
    ofReal(await startRealRegistry({ htpasswd: true }), ['--tls-verify=false', skopeoLogin], true),
  tokens: ofTokens,
}
