import type { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Handlers } from './adapter.js'
import type { BuilderCore } from './handlers.js'
import { invalid } from './request-checks.js'
import { transferCall, transferResponses } from './transfer-call.js'
import {
  annotateListRequest,
  createListRequest,
  pullRequest,
  pushListRequest,
  pushRequest,
  transferOptions,
} from './transfer-options.js'

type RegistryMethods =
  | 'Pull'
  | 'Push'
  | 'Login'
  | 'Logout'
  | 'CreateManifestList'
  | 'AnnotateManifestList'
  | 'InspectManifestList'
  | 'PushManifestList'
  | 'RemoveManifestList'

/** What of our own service speaks to registries. */
export function builderRegistries(core: BuilderCore): Pick<Handlers<typeof builderService>, RegistryMethods> {
  return {
    Pull: (requests, context) =>
      transferCall(requests, context, 'a pull', (options, client, signal) =>
        transferResponses(core.pull(pullRequest(options), client, context.caller, signal), context.note),
      ),

    Push: (requests, context) =>
      transferCall(requests, context, 'a push', (options, client, signal) =>
        transferResponses(core.push(pushRequest(options), client, context.caller, signal), context.note),
      ),

    async Login({ server, credentials, transfer }, { caller, signal }) {
      await core.login({ server, credentials, transfer: transferOptions(transfer) }, caller, signal)
      return {}
    },

    async Logout({ server, all }, { caller }) {
      if (all === (server !== '')) throw invalid('give a server or all')
      await core.logout(all ? { kind: 'all' } : { kind: 'server', server }, caller)
      return {}
    },

    CreateManifestList: (requests, context) =>
      transferCall(requests, context, 'a manifest list', async function* (options, client, signal) {
        const id = await core.createList(createListRequest(options), client, context.caller, signal)
        context.note({ results: [id] })
        yield { event: { case: 'id', value: id } } as const
      }),

    AnnotateManifestList: (requests, context) =>
      transferCall(requests, context, 'an annotation', async function* (options, client, signal) {
        await core.annotateList(annotateListRequest(options), client, context.caller, signal)
        yield { event: { case: 'done', value: {} } } as const
      }),

    async InspectManifestList({ name }, { caller }) {
      return { document: await core.inspectList(name, caller) }
    },

    PushManifestList: (requests, context) =>
      transferCall(requests, context, 'a push', (options, client, signal) =>
        transferResponses(
          core.pushList(pushListRequest(options), client, context.caller, signal),
          context.note,
        ),
      ),

    async RemoveManifestList({ name }, { caller }) {
      await core.removeList(name, caller)
      return {}
    },
  }
}
