import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Decoded } from '@isula-build/shared/rpc/codec.js'
import { controlService } from '@isula-build/shared/rpc/control.js'
import type { Method, Service } from '@isula-build/shared/rpc/service.js'
import type { AuditFacts } from '../ports/audit.js'
import type { PruneEvent } from './cache-requests.js'
import type { RemoveEvent, StoreEvent, TransferEvent } from './handlers.js'

/** What to note of a request; 'unaudited' for calls that only look at what everybody may see. */
type Rule<M> =
  M extends Method<infer Req, infer _Res, boolean, boolean>
    ? 'unaudited' | ((request: Decoded<Req>) => AuditFacts)
    : never

/** One rule per method, so that a new one cannot be forgotten. */
type Rules<S extends Service> = { readonly [K in keyof S]: Rule<S[K]> }

type Frame = { readonly case: string; readonly value: unknown }
type OptionsOf<F> = Extract<F, { readonly case: 'options' }> extends { readonly value: infer O } ? O : never

/** Of a stream whose first message is its options; nothing when it is not. */
function ofOptions<F extends Frame>(
  { payload }: { readonly payload: F | undefined },
  facts: (options: OptionsOf<F>) => AuditFacts,
): AuditFacts {
  return payload?.case === 'options' ? facts(payload.value as OptionsOf<F>) : {}
}

const control: Rules<typeof controlService> = {
  Build: (request) => ({
    build: request.buildID,
    images: [request.additionalTag, nameOfOutput(request.output)],
    caps: request.capAddList,
    network: 'host',
  }),
  Status: 'unaudited',
  List: 'unaudited',
  Version: 'unaudited',
  Push: ({ imageName }) => ({ images: [imageName] }),
  Pull: ({ imageName }) => ({ images: [imageName] }),
  Remove: ({ imageID }) => ({ images: imageID }),
  HealthCheck: 'unaudited',
  Login: ({ server }) => ({ registry: server }),
  Logout: ({ server, all }) => ({ registry: all ? '*' : server }),
  Load: () => ({}),
  Import: ({ reference }) => ({ images: [reference] }),
  Tag: ({ image, tag }) => ({ images: [image, tag] }),
  Save: ({ images }) => ({ images }),
  Info: 'unaudited',
  ManifestCreate: ({ manifestList, manifests }) => ({ images: [manifestList, ...manifests] }),
  ManifestAnnotate: ({ manifestList, manifest }) => ({ images: [manifestList, manifest] }),
  ManifestInspect: ({ manifestList }) => ({ images: [manifestList] }),
  ManifestPush: ({ manifestList, dest }) => ({ images: [manifestList, dest] }),
}

const builder: Rules<typeof builderService> = {
  Build: (request) =>
    ofOptions(request, ({ buildId, tags, outputs, capAdd, network, isolation }) => {
      const names = outputs.flatMap(({ name, destination }) =>
        destination?.case === 'reference' ? [name, destination.value] : [name],
      )
      return {
        build: buildId,
        images: [...tags, ...names],
        caps: capAdd,
        network: network === '' ? 'host' : network,
        // Said only where it is not the usual one.
        isolation: isolation === 'oci' ? '' : isolation,
      }
    }),
  Images: 'unaudited',
  Tag: ({ image, name }) => ({ images: [image, name] }),
  Remove: ({ images }) => ({ images }),
  Import: (request) => ofOptions(request, ({ reference }) => ({ images: [reference] })),
  Load: () => ({}),
  Save: ({ images }) => ({ images }),
  Info: 'unaudited',
  Version: 'unaudited',
  ListBuilds: 'unaudited',
  CancelBuild: ({ id }) => ({ build: id }),
  Prune: () => ({}),
  Pull: (request) => ofOptions(request, ({ reference }) => ({ images: [reference] })),
  Push: (request) => ofOptions(request, ({ image, destination }) => ({ images: [image, destination] })),
  Login: ({ server }) => ({ registry: server }),
  Logout: ({ server, all }) => ({ registry: all ? '*' : server }),
  CreateManifestList: (request) => ofOptions(request, ({ name, images }) => ({ images: [name, ...images] })),
  AnnotateManifestList: (request) => ofOptions(request, ({ list, image }) => ({ images: [list, image] })),
  InspectManifestList: ({ name }) => ({ images: [name] }),
  PushManifestList: (request) =>
    ofOptions(request, ({ list, destination }) => ({ images: [list, destination] })),
  RemoveManifestList: ({ name }) => ({ images: [name] }),
}

const rules = new Map<string, 'unaudited' | ((request: never) => AuditFacts)>(
  (
    [
      [controlService, control],
      [builderService, builder],
    ] as const
  ).flatMap(([service, table]) =>
    Object.entries(table).map(([name, rule]) => [(service as Service)[name]?.path ?? name, rule] as const),
  ),
)

export function isAudited(path: string): boolean {
  return rules.get(path) !== 'unaudited'
}

/** `request`: what the method at `path` was called with, the first message of a stream. */
export function factsOf(path: string, request: unknown): AuditFacts {
  const rule = rules.get(path)
  // Each rule takes exactly its method's request: that is what Rules<S> says.
  return typeof rule === 'function' ? rule(request as never) : {}
}

export function removedBy(event: RemoveEvent): readonly string[] {
  if (event.kind === 'untagged') return [event.name]
  return event.kind === 'image-removed' ? [event.reference] : []
}

export function prunedBy(event: PruneEvent): readonly string[] {
  return event.kind === 'removed' ? [event.entry.name] : []
}

export function storedBy(event: StoreEvent): readonly string[] {
  return event.kind === 'stored' ? [event.imageId] : []
}

export function transferredBy(event: TransferEvent): readonly string[] {
  if (event.kind === 'stored') return [event.imageId]
  return event.kind === 'pushed' ? [`${event.reference}@${event.digest}`] : []
}

/** What an output is called or where it goes, but for the path of an archive; '' when it has no name. */
function nameOfOutput(text: string): string {
  const [transport = '', ...rest] = text.split(':')
  const name = (transport.endsWith('-archive') ? rest.slice(1) : rest).join(':')
  return name.startsWith('//') ? name.slice(2) : name
}
