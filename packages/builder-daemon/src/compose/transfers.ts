import { join } from 'node:path'
import type { DaemonConfig, RegistrySettings } from '../config/daemon-config.js'
import { createSharedWork } from '../core/transfer/shared-work.js'
import type { TransferServices } from '../core/transfer/transfer.js'
import { createCredentialStore } from '../identity/credential-store.js'
import type { Logger } from '../ports/logger.js'
import type { RegistryClient } from '../ports/registry.js'
import type { ConfiguredRules } from '../ports/registry-rules.js'
import type { HttpLimits } from '../registry/http/limits.js'
import { createLoginOperations } from '../service/login-operations.js'
import { type AccessFor, createAccessFor } from '../service/registry-access.js'
import { createTransferClient } from '../workers/transfer-client.js'
import { createRegistryRules } from './registry-rules.js'

export interface TransfersOptions {
  readonly config: DaemonConfig
  readonly log: Logger
  readonly environment: Readonly<Record<string, string | undefined>>
  /** The built `transfer-worker`. */
  readonly entry: URL
  readonly services: Omit<TransferServices, 'client' | 'rules' | 'unpacking'>
}

/** Everything that speaks to registries. */
export interface Transfers extends AsyncDisposable {
  readonly services: TransferServices
  readonly rules: ConfiguredRules
  readonly accessFor: AccessFor
  readonly logins: ReturnType<typeof createLoginOperations>
  /** policy.json on an archive; `path` as the caller names it, or what stands for one. */
  readonly admitArchive: (transport: 'docker-archive' | 'oci-archive', path: string) => void
}

export function createTransfers({ config, log, environment, entry, services }: TransfersOptions): Transfers {
  const { configDir, dataRoot, runRoot, registry } = config
  const client: RegistryClient & AsyncDisposable = createTransferClient({
    ...{ entry, log },
    http: {
      certificates: [join(configDir, 'certs.d')],
      environment: networkVariables(environment),
      limits: httpLimits(registry),
      trustedHosts: registry.trustedHosts,
    },
  })
  const rules = createRegistryRules({ configDir, client: () => client, runRoot, log, environment })
  const credentials = createCredentialStore({
    rootFile: join(configDir, 'auth.json'),
    directory: join(dataRoot, 'auth'),
  })
  return {
    services: { ...services, client, rules, unpacking: createSharedWork() },
    rules,
    accessFor: createAccessFor(credentials, registry),
    admitArchive: (transport, path) => rules.admitArchive(transport, path.startsWith('/') ? path : undefined),
    logins: createLoginOperations({ client, rules, credentials }),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  }
}

/** `head` covers the wait for an answer, so a registry that says nothing is given up as soon as one that stalls. */
function httpLimits({ connectTimeout, idleTimeout, maxConnections }: RegistrySettings): Partial<HttpLimits> {
  return { connect: connectTimeout, idle: idleTimeout, head: idleTimeout, connections: maxConnections }
}

const networkNames = ['http_proxy', 'https_proxy', 'no_proxy', 'all_proxy']
  .flatMap((name) => [name, name.toUpperCase()])
  .concat('SSL_CERT_FILE', 'NODE_EXTRA_CA_CERTS')

/** The thread learns nothing else of the daemon's environment. */
function networkVariables(environment: Readonly<Record<string, string | undefined>>) {
  return Object.fromEntries(
    networkNames.flatMap((name) => (name in environment ? [[name, environment[name]]] : [])),
  )
}
