import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatCanonical, type ImageReference, withDefaultTag } from '@isula-build/shared/oci/reference.js'
import type { Endpoint, RegistryCall, RemoteManifest } from '../../ports/registry.js'
import type { TransferCall, TransferServices } from './transfer.js'

/** What a reference turned out to mean. */
export interface LocatedImage {
  readonly reference: ImageReference
  /** The manifest or index itself; everything else is taken from these bytes, not asked for again by tag. */
  readonly top: RemoteManifest
  /** Where it came from. */
  readonly endpoint: Endpoint
  /** Where the rest may be: that one, and those that were not needed yet. */
  readonly endpoints: readonly Endpoint[]
}

/** The registry that a name under `localhost/` seems to mean is mostly none: such names are for local images. */
const localDomain = 'localhost'

/** `docker://` is how other tools mark a reference at a registry. */
export function withoutTransport(text: string): string {
  return text.startsWith('docker://') ? text.slice('docker://'.length) : text
}

export function candidatesOf(
  text: string,
  { rules }: Pick<TransferServices, 'rules'>,
): readonly ImageReference[] {
  return rules.candidates(withoutTransport(text)).map(withDefaultTag)
}

/**
 * Gets the manifest of the first candidate that has one. A registry that says it has none, or that it will not tell, is
 * passed over with a line; one that fails to answer is not: what another one has under the name may be another's image.
 * Only `localhost` is a guess, and may fail in any way. An error names all that were asked, each with its reason.
 */
export async function locateImage(
  text: string,
  services: TransferServices,
  call: TransferCall,
): Promise<LocatedImage> {
  const candidates = candidatesOf(text, services)
  const passed: PassedOver[] = []
  for (const [i, reference] of candidates.entries()) {
    const isGuess = reference.domain === localDomain && !withoutTransport(text).startsWith(`${localDomain}/`)
    try {
      return await locateCandidate(reference, isGuess, services, call)
    } catch (error) {
      if (isGuess && candidates.length === 1 && isAbsent(error)) throw nowhere(text, error)
      if (candidates.length === 1 || !mayBeElsewhere(error)) throw error
      passed.push({ reference, error })
      if (i === candidates.length - 1) break
      if (!isGuess && !saysNo(error)) throw stoppedAt(passed)
      call.onLog(`${formatCanonical(reference)} is passed over: ${error.message}`)
    }
  }
  throw notFound(text, passed)
}

/** A candidate without the image. */
interface PassedOver {
  readonly reference: ImageReference
  readonly error: BuilderError
}

/** Failures by which a registry says that the image is not there for this user. */
function saysNo(error: BuilderError): boolean {
  return error.code === 'ISB_IMAGE_NOT_FOUND' || error.code === 'ISB_REGISTRY_DENIED'
}

function isAbsent(error: unknown): boolean {
  return isBuilderError(error, 'ISB_IMAGE_NOT_FOUND') || isBuilderError(error, 'ISB_REGISTRY_UNAVAILABLE')
}

/** Without search registries a short name has nowhere to be but here. */
function nowhere(text: string, cause: unknown): BuilderError {
  return new BuilderError('ISB_IMAGE_NOT_FOUND', `image "${text}" not found in local store`, {
    cause,
    hint: 'Write the registry before the name, or add search registries to registries.toml.',
  })
}

function notFound(text: string, passed: readonly PassedOver[]): BuilderError {
  const last = passed.at(-1)?.error
  if (last === undefined) {
    return new BuilderError('ISB_IMAGE_NOT_FOUND', `no registry is known for "${text}"`, {
      hint: 'Write the registry before the name, or add search registries to registries.toml.',
    })
  }
  return new BuilderError(last.code, reasons(passed), { ...last.details, cause: last })
}

function stoppedAt(passed: readonly PassedOver[]): BuilderError {
  const error = notFound('', passed)
  return new BuilderError(error.code, error.message, {
    ...error.details,
    hint: 'The registries behind it are not asked instead; write the one you mean before the name.',
  })
}

function reasons(passed: readonly PassedOver[]): string {
  const tried = passed.map(({ reference }) => formatCanonical(reference)).join(' ')
  return `failed to get the image in [${tried}]: ${passed.map(({ error }) => error.message).join('; ')}`
}

async function locateCandidate(
  reference: ImageReference,
  isGuess: boolean,
  services: TransferServices,
  call: TransferCall,
): Promise<LocatedImage> {
  const endpoints = services.rules.endpoints(reference)
  const asking = isGuess ? withoutPatience(registryCall(call)) : registryCall(call)
  const wanted = reference.digest ?? reference.tag ?? 'latest'
  const { endpoint, value: top } = await firstThat(endpoints, { ...call, ...asking }, (one, own) =>
    services.client.manifest(one, wanted, own),
  )
  // Nobody waits again for those that were passed over.
  return { reference, top, endpoint, endpoints: endpoints.slice(endpoints.indexOf(endpoint)) }
}

/** False for failures that another registry cannot help with. */
export function mayBeElsewhere(error: unknown): error is BuilderError {
  return isBuilderError(error) && !['ISB_CANCELLED', 'ISB_NO_SPACE', 'ISB_SHUTTING_DOWN'].includes(error.code)
}

/**
 * What the first endpoint gives that does not fail; the others are told of, the last one's failure counts. Only that one
 * is asked with patience.
 */
export async function firstThat<T>(
  endpoints: readonly Endpoint[],
  call: Pick<TransferCall, 'onLog' | 'access' | 'signal'>,
  ask: (endpoint: Endpoint, asking: RegistryCall) => Promise<T>,
): Promise<{ readonly endpoint: Endpoint; readonly value: T }> {
  const patient = registryCall(call)
  for (const [i, endpoint] of endpoints.entries()) {
    const isLast = i === endpoints.length - 1
    try {
      return { endpoint, value: await ask(endpoint, isLast ? patient : withoutPatience(patient)) }
    } catch (error) {
      if (isLast || !mayBeElsewhere(error)) throw error
      call.onLog(`[Warning] ${nameOf(endpoint)} is passed over: ${error.message}`)
    }
  }
  throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'no registry may be asked')
}

/** `host/repository`, for messages. */
export function nameOf(endpoint: Endpoint): string {
  return `${endpoint.host}/${endpoint.repository}`
}

export function registryCall(call: Pick<TransferCall, 'access' | 'signal' | 'onLog'>): RegistryCall {
  return { access: call.access, signal: call.signal, onNotice: call.onLog }
}

/** For a question that somebody else can answer, too. */
export function withoutPatience(call: RegistryCall): RegistryCall {
  return { ...call, access: { ...call.access, retries: 0 } }
}
