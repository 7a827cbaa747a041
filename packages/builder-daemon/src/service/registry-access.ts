import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Caller } from '../ports/caller.js'
import type { CredentialStore } from '../ports/credential-store.js'
import type { Credentials, RegistryAccess } from '../ports/registry.js'
import type { CredentialClient, TransferOptions } from '../rpc/handlers.js'

export type AccessFor = (caller: Caller, client: CredentialClient, transfer: TransferOptions) => CallerAccess

export interface CallerAccess extends RegistryAccess {
  /** The error of a refusal, with a hint at the login that was used where there is another one; others as they are. */
  explained(error: unknown): unknown
}

/**
 * Who the caller is to a registry, for one call: what he named for this very call, else his login at the daemon, else
 * what his program knows. Each place is asked once, and when it is needed.
 */
export function createAccessFor(
  store: Pick<CredentialStore, 'get'>,
  defaults: { readonly retries?: number; readonly retryDelay?: number } = {},
): AccessFor {
  return (caller, client, { tlsVerify, retryDelay = defaults.retryDelay, ...asked }) => {
    const insists = asked.retries !== undefined
    const retries = asked.retries ?? defaults.retries
    const answers = new Map<string, Promise<Credentials | undefined>>()
    /** Hosts for which the program's own login came second. */
    const passedOver = new Set<string>()

    async function find(
      host: string,
      repository: string,
      named: string | undefined,
    ): Promise<Credentials | undefined> {
      const known = await client.credentials(host, repository, named)
      const found = known?.explicit === true ? known : await store.get(caller.uid, host, repository)
      if (known !== undefined && known !== found && found !== undefined) passedOver.add(host)
      const chosen = found ?? known
      return chosen === undefined ? undefined : { username: chosen.username, password: chosen.password }
    }

    return {
      ...{ uid: caller.uid, tlsVerify, retries, insists, retryDelay },
      credentials(host, repository, named) {
        const key = `${host} ${repository} ${named ?? ''}`
        const answer = answers.get(key) ?? find(host, repository, named)
        answers.set(key, answer)
        return answer
      },
      explained(error) {
        if (!isBuilderError(error, 'ISB_REGISTRY_DENIED')) return error
        const host = [...passedOver].find((one) => error.message.includes(one))
        if (host === undefined) return error
        const used = `The login of \`isula-build login\` was used; without it (\`isula-build logout ${host}\`) the one of your own files is.`
        const hint = [error.hint, used].filter(Boolean).join(' ')
        return new BuilderError(error.code, error.message, { ...error.details, hint })
      },
    }
  }
}
