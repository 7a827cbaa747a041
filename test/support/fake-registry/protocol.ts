import type { IncomingMessage } from 'node:http'
import { digestOf } from '../../../packages/shared/src/oci/digest.js'
import { indexMediaType, mediaTypes } from '../../../packages/shared/src/oci/media-types.js'
import type { Need, Verdict } from './authentication.js'
import type { RecordedRequest } from './record.js'
import { partOf, type Reply, refusal, reply, sizeOf } from './reply.js'
import type { Storage } from './storage.js'
import { handleUpload } from './uploads.js'

/** What a registry can be asked to do without; everything is allowed by the distribution spec. */
export interface Abilities {
  /** Names per page of tags; all when not given. */
  readonly pageSize?: number
  readonly chunkMinLength?: number
  readonly mounts?: boolean
  readonly ranges?: boolean
  /** OCI documents are refused. */
  readonly oci?: boolean
  readonly referrers?: boolean
  /** Longest body of one PUT or PATCH of an upload. */
  readonly maxBody?: number
}

export interface Ask {
  readonly request: RecordedRequest
  readonly message: IncomingMessage
  readonly storage: Storage
  readonly abilities: Abilities
  readonly verdict: Extract<Verdict, { may: unknown }>
  /** Says what the client may not do by the spec. */
  readonly complain: (text: string) => void
  readonly readBody: (limit: number) => Promise<Buffer>
  /** Called with every part of the body; resolves true when it was whole. */
  readonly pourBody: (take: (bytes: Buffer) => void) => Promise<boolean>
}

const namePattern = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$/
const referencePattern = /^(?:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|sha256:[0-9a-f]{64})$/

export interface Route {
  readonly name: string
  readonly kind: 'api' | 'manifests' | 'blobs' | 'uploads' | 'upload' | 'tags' | 'referrers'
  /** Reference, digest or ID. */
  readonly what: string
}

export function routeOf(path: string): Route | undefined {
  if (path === '/v2/' || path === '/v2') return { name: '', kind: 'api', what: '' }
  const [, name = '', kind, what = ''] =
    /^\/v2\/(.+?)\/(blobs\/uploads|manifests|blobs|tags|referrers)\/([^/]*)$/.exec(path) ?? []
  if (kind === 'blobs/uploads') return { name, kind: what === '' ? 'uploads' : 'upload', what }
  if (kind === 'tags') return what === 'list' ? { name, kind, what } : undefined
  if (kind === 'manifests' || kind === 'blobs' || kind === 'referrers') return { name, kind, what }
  return undefined
}

export function needOf(route: Route, method: string): Need | undefined {
  if (route.kind === 'api') return undefined
  const reads = method === 'GET' || method === 'HEAD'
  if (reads && route.kind !== 'upload') return { repository: route.name, actions: ['pull'] }
  return { repository: route.name, actions: method === 'DELETE' ? ['delete'] : ['pull', 'push'] }
}

export async function handle(route: Route, ask: Ask): Promise<Reply> {
  const { method } = ask.request
  if (route.kind === 'api') {
    return reply(200, { 'docker-distribution-api-version': 'registry/2.0' }, Buffer.from('{}'))
  }
  if (!namePattern.test(route.name)) {
    ask.complain(`the name ${JSON.stringify(route.name)} is none`)
    return refusal(400, 'NAME_INVALID', 'invalid repository name')
  }
  const reads = method === 'GET' || method === 'HEAD'
  if (route.kind === 'uploads' || route.kind === 'upload') return await handleUpload(route, ask)
  if (route.kind === 'manifests') {
    if (reads) return getManifest(route, ask)
    if (method === 'PUT') return await putManifest(route, ask)
    if (method === 'DELETE') return deleteManifest(route, ask)
  } else if (route.kind === 'blobs') {
    if (reads) return getBlob(route, ask)
    if (method === 'DELETE') return deleteBlob(route, ask)
  } else if (route.kind === 'tags' && method === 'GET') return listTags(route, ask)
  else if (route.kind === 'referrers' && method === 'GET') return listReferrers(route, ask)
  return refusal(405, 'UNSUPPORTED', 'the operation is unsupported')
}

const manifestTypes = [
  ...[mediaTypes.dockerManifest, mediaTypes.dockerIndex, mediaTypes.ociManifest, mediaTypes.ociIndex],
]

function getManifest({ name, what }: Route, { request, storage, complain }: Ask): Reply {
  if (!referencePattern.test(what)) complain(`the reference ${JSON.stringify(what)} is none`)
  const { manifests, tags } = storage.repository(name)
  const digest = what.includes(':') ? what : (tags.get(what) ?? '')
  const manifest = manifests.get(digest)
  if (manifest === undefined) return refusal(404, 'MANIFEST_UNKNOWN', 'manifest unknown')
  const accept = request.headers.accept ?? ''
  if (manifestTypes.some((type) => !accept.includes(type))) complain(`Accept of a manifest is "${accept}"`)
  const { mediaType, bytes } = manifest
  const head = { 'content-type': mediaType, 'docker-content-digest': digest }
  return reply(200, head, bytes)
}

interface Document {
  readonly mediaType?: string
  readonly config?: { readonly digest: string }
  readonly layers?: readonly { readonly digest: string; readonly urls?: readonly string[] }[]
  readonly manifests?: readonly { readonly digest: string }[]
  readonly subject?: { readonly digest: string }
  readonly artifactType?: string
  readonly annotations?: Readonly<Record<string, string>>
}

async function putManifest({ name, what }: Route, ask: Ask): Promise<Reply> {
  const { request, storage, complain, readBody, abilities } = ask
  const bytes = await readBody(4 << 20)
  const mediaType = request.headers['content-type'] ?? ''
  const invalid = (message: string): Reply => refusal(400, 'MANIFEST_INVALID', message)
  if (!referencePattern.test(what)) return invalid('manifest reference is none')
  let document: Document
  try {
    document = JSON.parse(bytes.toString('utf8'))
  } catch {
    return invalid('manifest is no JSON')
  }
  if (document.mediaType !== undefined && document.mediaType !== mediaType) {
    complain(`Content-Type ${mediaType} of a manifest that says ${document.mediaType}`)
    return invalid('media types differ')
  }
  if (abilities.oci === false && mediaType.includes('oci')) return invalid('manifest type is not supported')
  const digest = digestOf(bytes)
  if (what.includes(':') && what !== digest) return refusal(400, 'DIGEST_INVALID', 'digest does not match')
  const { blobs, manifests } = storage.repository(name)
  const wanted = [document.config, ...(document.layers ?? []).filter(({ urls }) => urls === undefined)]
  const missing = wanted.find((blob) => blob !== undefined && !blobs.has(blob.digest))
  if (missing !== undefined) {
    complain(`a manifest was put before its blob ${missing.digest}`)
    return refusal(404, 'MANIFEST_BLOB_UNKNOWN', `blob unknown to registry: ${missing.digest}`)
  }
  const child = document.manifests?.find((one) => !manifests.has(one.digest))
  if (child !== undefined) {
    complain(`an index was put before its manifest ${child.digest}`)
    return refusal(404, 'MANIFEST_UNKNOWN', `manifest unknown to registry: ${child.digest}`)
  }
  storage.putManifest(name, what, { mediaType, bytes })
  return reply(201, {
    location: `/v2/${name}/manifests/${digest}`,
    'docker-content-digest': digest,
    ...(document.subject !== undefined &&
      abilities.referrers !== false && { 'oci-subject': document.subject.digest }),
  })
}

function deleteManifest({ name, what }: Route, { storage }: Ask): Reply {
  const { manifests, tags } = storage.repository(name)
  if (!what.includes(':')) {
    return tags.delete(what) ? reply(202) : refusal(404, 'MANIFEST_UNKNOWN', 'tag unknown')
  }
  if (!manifests.delete(what)) return refusal(404, 'MANIFEST_UNKNOWN', 'manifest unknown')
  for (const [tag, digest] of tags) if (digest === what) tags.delete(tag)
  return reply(202)
}

function getBlob({ name, what }: Route, { request, storage, abilities }: Ask): Reply {
  const body = storage.repository(name).blobs.get(what)
  if (body === undefined) return refusal(404, 'BLOB_UNKNOWN', 'blob unknown to registry')
  const size = sizeOf(body)
  const head = { 'content-type': 'application/octet-stream', 'docker-content-digest': what }
  if (abilities.ranges === false) return reply(200, head, body)
  const range = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? '')
  const accepting = { ...head, 'accept-ranges': 'bytes' }
  if (range === null || request.method === 'HEAD') return reply(200, accepting, body)
  const [, first = '', last = ''] = range
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1)
  if (start >= size || end < start) {
    return refusal(416, 'UNSUPPORTED', 'range not satisfiable', { 'content-range': `bytes */${size}` })
  }
  const part = partOf(body, start, end - start + 1)
  return reply(206, { ...accepting, 'content-range': `bytes ${start}-${end}/${size}` }, part)
}

function deleteBlob({ name, what }: Route, { storage }: Ask): Reply {
  const known = storage.repository(name).blobs.delete(what)
  return known ? reply(202) : refusal(404, 'BLOB_UNKNOWN', 'blob unknown to registry')
}

function listTags({ name }: Route, { request, storage, abilities }: Ask): Reply {
  if (!storage.repositories.has(name)) return refusal(404, 'NAME_UNKNOWN', 'repository name not known')
  const all = [...storage.repository(name).tags.keys()].sort()
  const last = request.query.get('last') ?? ''
  const asked = request.query.get('n')
  const size = Math.min(asked === null ? Number.POSITIVE_INFINITY : Number(asked), abilities.pageSize ?? 1e9)
  const rest = all.filter((tag) => tag > last)
  const tags = rest.slice(0, size)
  const more = tags.length < rest.length && tags.length > 0
  const link = { link: `</v2/${name}/tags/list?n=${size}&last=${tags.at(-1)}>; rel="next"` }
  return json(200, { name, tags }, more ? link : {})
}

function listReferrers({ name, what }: Route, { request, storage, abilities }: Ask): Reply {
  if (abilities.referrers === false) return refusal(404, 'NAME_UNKNOWN', 'not found')
  const type = request.query.get('artifactType')
  const found = [...storage.repository(name).manifests].flatMap(([digest, { mediaType, bytes }]) => {
    const document: Document & { readonly config?: { readonly mediaType?: string } } = JSON.parse(
      bytes.toString('utf8'),
    )
    const artifactType = document.artifactType ?? document.config?.mediaType
    if (document.subject?.digest !== what || (type !== null && type !== artifactType)) return []
    const { annotations } = document
    return [{ mediaType, digest, size: bytes.length, artifactType, annotations }]
  })
  const index = { schemaVersion: 2, mediaType: indexMediaType('oci'), manifests: found }
  const filtered = type === null ? {} : { 'oci-filters-applied': 'artifactType' }
  return json(200, index, { 'content-type': indexMediaType('oci'), ...filtered })
}

function json(status: number, document: unknown, headers: Reply['headers'] = {}): Reply {
  const type = { 'content-type': 'application/json' }
  return reply(status, { ...type, ...headers }, Buffer.from(JSON.stringify(document)))
}
