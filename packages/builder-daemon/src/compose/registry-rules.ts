import { join } from 'node:path'
import { readPolicyFile } from '../config/policy-file.js'
import { readRegistriesFile } from '../config/registries-file.js'
import { readSignaturePlaces } from '../config/signature-places.js'
import type { Policy } from '../core/policy/policy.js'
import { archiveRequirements, requirementsFor } from '../core/policy/scopes.js'
import type { SignaturePlaces } from '../core/policy/signature-places.js'
import {
  candidatesOf,
  destinationOf,
  endpointsOf,
  listsOf,
  type RegistryTable,
  serverOf,
} from '../core/registries/registry-table.js'
import type { Logger } from '../ports/logger.js'
import type { RegistryClient } from '../ports/registry.js'
import type { ConfiguredRules } from '../ports/registry-rules.js'
import { createTrustStore } from '../registry/http/trust.js'
import { admitImage, admitUnsigned } from '../registry/signatures/admission.js'

export interface RegistryRulesOptions {
  readonly configDir: string
  /** Fetches signatures; asked for at the first one, as it may need the rules itself. */
  readonly client: () => RegistryClient
  readonly runRoot: string
  readonly log: Logger
  /** The daemon's own: certificate authorities of its choice. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

interface Rules {
  readonly table: RegistryTable
  readonly policy: Policy
  readonly places: SignaturePlaces
}

/** Reads registries.toml, policy.json and registries.d. Fails with ISB_CONFIG_INVALID. */
export function createRegistryRules(options: RegistryRulesOptions): ConfiguredRules {
  const { configDir, client, runRoot, log, environment } = options
  const trust = createTrustStore([join(configDir, 'certs.d')], environment)
  const services = {
    ...{ client, workDirectory: join(runRoot, 'tmp') },
    lookaside: { trust: (host: string) => trust.of(host).context(true) },
  }
  let rules = read(configDir, log)
  return {
    candidates: (text) => candidatesOf(rules.table, text),
    endpoints: (reference) => endpointsOf(rules.table, reference),
    destination: (reference) => destinationOf(rules.table, reference),
    server: (host, namespace) => serverOf(rules.table, host, namespace),
    // One set of rules from its beginning to its end, whatever is read meanwhile.
    admit: (image, call) =>
      admitImage(image, requirementsFor(rules.policy, image.reference), rules.places, services, call),
    admitArchive: (transport, path) =>
      admitUnsigned(path ?? 'the archive', archiveRequirements(rules.policy, transport, path)),
    get lists() {
      return listsOf(rules.table)
    },
    async reload() {
      try {
        rules = read(configDir, log)
        log.info('registries.reloaded', { configDir })
      } catch (error) {
        log.error('registries.kept', { error, reason: (error as Error).message })
      }
    },
  }
}

function read(configDir: string, log: Logger): Rules {
  const { table, warnings } = readRegistriesFile(join(configDir, 'registries.toml'))
  const policy = readPolicyFile(join(configDir, 'policy.json'))
  const signatures = readSignaturePlaces(join(configDir, 'registries.d'))
  for (const warning of [...warnings, ...signatures.warnings]) log.warn('registries.warning', { warning })
  return { table, policy, places: signatures.places }
}
