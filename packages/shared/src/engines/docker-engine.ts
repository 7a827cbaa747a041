import { BuilderError } from '../errors/builder-error.js'
import { splitLocalName } from '../oci/local-name.js'

// Docker Engine API, https://docs.docker.com/reference/api/engine/: images/load, images/NAME/tag, images/NAME/json.
// Paths without a version mean the newest that dockerd knows. Whoever uses this brings the connection.

export interface EngineRequest {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
}

export interface EngineResponse extends AsyncIterable<Uint8Array> {
  readonly statusCode?: number | undefined
}

/** What of a request of node:http is used. */
export interface EngineCall {
  once(event: 'response', listener: (response: EngineResponse) => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  write(chunk: Uint8Array, done: (error: Error | null | undefined) => void): unknown
  end(): unknown
  destroy(): unknown
}

export interface DockerEngine {
  /** Where it is, for messages. */
  readonly address: string
  readonly dial: (request: EngineRequest) => EngineCall
}

/** A docker archive on its way to dockerd. All methods fail with ISB_ENGINE_FAILED or ISB_PERMISSION_DENIED. */
export interface DockerLoad {
  /** Resolves when the next chunk may come; `chunk` is not looked at afterwards. */
  write(chunk: Uint8Array): Promise<void>
  /** Resolves when dockerd has the image under all its names. */
  finish(): Promise<void>
  /** Ends the request; dockerd keeps nothing that is not whole. */
  abort(): void
}

interface Answer {
  readonly status: number
  readonly body: string
}

/** What an answer can be that anybody reads, characters. */
const answerLimit = 64 * 1024

/** `names` in local form: the first is the one in the archive, dockerd adds the others. */
export function openDockerLoad(engine: DockerEngine, names: readonly string[]): DockerLoad {
  const call = engine.dial({
    method: 'POST',
    path: '/images/load?quiet=1',
    headers: { 'Content-Type': 'application/x-tar' },
  })
  const answered = answerOf(engine, call)
  const refused = answered.then((answer) => {
    if (answer.status >= 300) throw refusal(engine, answer)
    return new Promise<never>(() => undefined)
  })
  refused.catch(() => undefined)
  return {
    async write(chunk) {
      // A connection that breaks fails the answer; its pieces need not.
      const written = new Promise<void>((resolve) => call.write(chunk, () => resolve()))
      await Promise.race([refused, written])
    },
    async finish() {
      call.end()
      const answer = await answered
      if (answer.status >= 300) throw refusal(engine, answer)
      const problem = problemIn(answer.body)
      if (problem !== undefined)
        throw failed(`dockerd at ${engine.address} did not load the image: ${problem}`)
      const [first = '', ...more] = names
      for (const name of more) await expectDone(engine, tagRequest(first, name))
      for (const name of names) await expectDone(engine, get(`/images/${encodeName(name)}/json`))
    },
    abort: () => void call.destroy(),
  }
}

function tagRequest(name: string, added: string): EngineRequest {
  const { repository, tag } = splitLocalName(added)
  const query = `repo=${encodeURIComponent(repository)}&tag=${encodeURIComponent(tag)}`
  return { method: 'POST', path: `/images/${encodeName(name)}/tag?${query}`, headers: {} }
}

function get(path: string): EngineRequest {
  return { method: 'GET', path, headers: {} }
}

/** The slashes of a name are part of the path. */
function encodeName(name: string): string {
  return name.split('/').map(encodeURIComponent).join('/')
}

async function expectDone(engine: DockerEngine, request: EngineRequest): Promise<void> {
  const call = engine.dial(request)
  const answered = answerOf(engine, call)
  call.end()
  const answer = await answered
  if (answer.status >= 300) throw refusal(engine, answer)
}

function answerOf(engine: DockerEngine, call: EngineCall): Promise<Answer> {
  const answered = new Promise<Answer>((resolve, reject) => {
    const fail = (cause: unknown): void => reject(unreachable(engine, cause))
    let isAnswering = false
    // Once dockerd speaks, what it says counts more than how the connection ends.
    call.on('error', (error) => {
      if (!isAnswering) fail(error)
    })
    call.once('response', (response) => {
      isAnswering = true
      readBody(response).then((body) => resolve({ status: response.statusCode ?? 0, body }), fail)
    })
  })
  answered.catch(() => undefined)
  return answered
}

async function readBody(response: AsyncIterable<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const chunk of response)
    text = `${text}${decoder.decode(chunk, { stream: true })}`.slice(-answerLimit)
  return text
}

/** The error among the lines of JSON that dockerd answers a load with. */
export function problemIn(body: string): string | undefined {
  for (const line of body.split('\n')) {
    const message = errorOf(line)
    if (message !== undefined) return message
  }
  return undefined
}

function errorOf(line: string): string | undefined {
  try {
    const { error, errorDetail } = JSON.parse(line) as {
      readonly error?: unknown
      readonly errorDetail?: { readonly message?: unknown } | null
    }
    const message = error ?? errorDetail?.message
    return typeof message === 'string' && message !== '' ? shown(message) : undefined
  } catch {
    return undefined
  }
}

function refusal({ address }: DockerEngine, { status, body }: Answer): BuilderError {
  return failed(`dockerd at ${address} answers ${status}: ${messageIn(body) ?? shown(body)}`)
}

function messageIn(body: string): string | undefined {
  try {
    const { message } = JSON.parse(body) as { readonly message?: unknown }
    return typeof message === 'string' ? shown(message) : undefined
  } catch {
    return undefined
  }
}

function unreachable({ address }: DockerEngine, cause: unknown): BuilderError {
  const { code, message } = cause as { readonly code?: unknown; readonly message?: unknown }
  if (code === 'EACCES' || code === 'EPERM') {
    return new BuilderError('ISB_PERMISSION_DENIED', `dockerd at ${address}: permission denied`, {
      cause,
      hint: 'Members of the group of its socket may use it.',
    })
  }
  const isAbsent = code === 'ENOENT' || code === 'ECONNREFUSED'
  const reason = isAbsent
    ? `is not running (${String(code)})`
    : `broke the connection: ${shown(String(message))}`
  return new BuilderError('ISB_ENGINE_FAILED', `dockerd at ${address} ${reason}`, { cause })
}

/** Text of another program's for a terminal. */
function shown(text: string): string {
  return text
    .replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
    .trim()
    .slice(0, 500)
}

function failed(message: string): BuilderError {
  return new BuilderError('ISB_ENGINE_FAILED', message)
}
