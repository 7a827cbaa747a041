import type { Ask, Route } from './protocol.js'
import { type Reply, refusal, reply } from './reply.js'
import type { Upload } from './storage.js'

const digestPattern = /^sha256:[0-9a-f]{64}$/

/** Uploads as the distribution spec has them ("Pushing blobs"). */
export async function handleUpload(route: Route, ask: Ask): Promise<Reply> {
  const { method } = ask.request
  if (route.kind === 'uploads') {
    if (method === 'POST') return await begin(route, ask)
    return refusal(405, 'UNSUPPORTED', 'the operation is unsupported')
  }
  const upload = ask.storage.uploads.get(route.what)
  if (upload === undefined || upload.repository !== route.name) {
    return refusal(404, 'BLOB_UPLOAD_UNKNOWN', 'blob upload unknown to registry')
  }
  const state = Number(ask.request.query.get('_state') ?? '-1')
  if (!(state >= upload.told && state <= upload.state)) {
    ask.complain(`${method} went to an old Location (${state}, the newest is ${upload.state})`)
  }
  switch (method) {
    case 'GET':
      return answer(204, upload, ask)
    case 'PATCH':
      return await patch(upload, ask)
    case 'PUT':
      return await put(upload, ask)
    case 'DELETE':
      ask.storage.cancel(upload)
      return reply(204)
    default:
      return refusal(405, 'UNSUPPORTED', 'the operation is unsupported')
  }
}

async function begin({ name }: Route, ask: Ask): Promise<Reply> {
  const { request, storage, abilities, verdict } = ask
  const mount = request.query.get('mount')
  const from = request.query.get('from')
  if (mount !== null && from !== null && abilities.mounts !== false) {
    const body = storage.repositories.get(from)?.blobs.get(mount)
    if (body !== undefined && verdict.may({ repository: from, actions: ['pull'] })) {
      storage.repository(name).blobs.set(mount, body)
      return created(name, mount)
    }
  }
  const upload = storage.beginUpload(name)
  const digest = request.query.get('digest')
  if (digest !== null) return await receive(upload, digest, ask)
  if ((request.headers['content-length'] ?? '0') !== '0') ask.complain('POST of an upload has a body')
  return answer(202, upload, ask)
}

async function patch(upload: Upload, ask: Ask): Promise<Reply> {
  const { request, complain, abilities } = ask
  const length = request.headers['content-length']
  const range = request.headers['content-range']
  // As Docker's own client sends blobs that it compresses meanwhile: all of it, of a length that it does not know.
  const isStream = request.headers['transfer-encoding'] === 'chunked' && range === undefined
  if (isStream && upload.size > 0) complain('PATCH of a stream does not begin the upload')
  if (isStream && abilities.maxBody !== undefined) return tooLarge()
  if (length === undefined && !isStream) complain('PATCH has no Content-Length')
  if (range !== undefined) {
    const [, start = '', end = ''] = /^(\d+)-(\d+)$/.exec(range) ?? []
    if (start === '' || Number(end) - Number(start) + 1 !== Number(length)) {
      complain(`Content-Range "${range}" of a chunk of ${length} bytes`)
    }
    if (Number(start) !== upload.size) {
      return refusal(416, 'BLOB_UPLOAD_INVALID', 'the chunk does not begin where the upload is', {
        location: nextLocation(upload),
        range: rangeOf(upload),
      })
    }
  }
  if (upload.short) complain('a chunk shorter than OCI-Chunk-Min-Length was not the last')
  if (Number(length) > (abilities.maxBody ?? Number.POSITIVE_INFINITY)) return tooLarge()
  const whole = await ask.pourBody((bytes) => ask.storage.append(upload, bytes))
  if (!whole) return reply(499)
  upload.short = Number(length) < (abilities.chunkMinLength ?? 0)
  return answer(202, upload, ask)
}

async function put(upload: Upload, ask: Ask): Promise<Reply> {
  const digest = ask.request.query.get('digest') ?? ''
  if (ask.request.headers['content-length'] === undefined)
    ask.complain('PUT of an upload has no Content-Length')
  if (Number(ask.request.headers['content-length']) > (ask.abilities.maxBody ?? Number.POSITIVE_INFINITY)) {
    return tooLarge()
  }
  return await receive(upload, digest, ask)
}

async function receive(upload: Upload, digest: string, ask: Ask): Promise<Reply> {
  const { storage, complain } = ask
  const before = upload.size
  const whole = await ask.pourBody((bytes) => storage.append(upload, bytes))
  if (!whole) return reply(499)
  const type = ask.request.headers['content-type']
  if (upload.size > before && type !== 'application/octet-stream') {
    complain(`Content-Type of a blob is ${type}`)
  }
  if (!digestPattern.test(digest) || !storage.finish(upload, digest)) {
    complain(`what was uploaded does not have the digest "${digest}"`)
    storage.cancel(upload)
    return refusal(400, 'DIGEST_INVALID', 'provided digest did not match uploaded content')
  }
  return created(upload.repository, digest)
}

function created(name: string, digest: string): Reply {
  return reply(201, { location: `/v2/${name}/blobs/${digest}`, 'docker-content-digest': digest })
}

function answer(status: number, upload: Upload, { abilities, request }: Ask): Reply {
  const { chunkMinLength } = abilities
  return reply(status, {
    location: nextLocation(upload),
    range: rangeOf(upload),
    'docker-upload-uuid': upload.id,
    ...(chunkMinLength !== undefined &&
      request.method === 'POST' && { 'oci-chunk-min-length': String(chunkMinLength) }),
  })
}

/** Every answer has another one, and only the newest is right. */
function nextLocation(upload: Upload): string {
  upload.state++
  return `/v2/${upload.repository}/blobs/uploads/${upload.id}?_state=${upload.state}`
}

/** `0-0` where nothing has come, as most registries do. */
function rangeOf({ size }: Upload): string {
  return `0-${Math.max(0, size - 1)}`
}

function tooLarge(): Reply {
  return refusal(413, 'SIZE_INVALID', 'request entity too large')
}
