import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, digestHex } from '@isula-build/shared/oci/digest.js'
import { formatFamiliar, type ImageReference } from '@isula-build/shared/oci/reference.js'
import { decodeManifestDocument } from '../../core/image/manifest-document.js'
import type { KeySource, PolicyRequirement, SignedIdentity } from '../../core/policy/policy.js'
import type { Requirements } from '../../core/policy/scopes.js'
import { decodePayload } from '../../core/policy/signature-payload.js'
import { attachmentsOf, lookasideOf, type SignaturePlaces } from '../../core/policy/signature-places.js'
import { identityMatches } from '../../core/policy/signed-identity.js'
import { JsonProblem } from '../../core/policy/strict-json.js'
import type { Endpoint, RegistryCall, RegistryClient } from '../../ports/registry.js'
import type { RegistryRules } from '../../ports/registry-rules.js'
import { readAttachments } from './attachments.js'
import { verifyGpg } from './gpg.js'
import { type LookasideOptions, readLookaside } from './lookaside.js'
import { verifyWithPublicKeys } from './public-key.js'
import { signatureLimit, type Verdict } from './verdict.js'

type Candidate = Parameters<RegistryRules['admit']>[0]
type Signed = Extract<PolicyRequirement, { readonly keys: KeySource }>

export interface AdmissionServices {
  readonly client: () => RegistryClient
  /** For the keys of one verification, removed after it. */
  readonly workDirectory: string
  readonly lookaside?: LookasideOptions
}

/** Succeeds when the image meets every requirement; else ISB_POLICY_REJECTED. See RegistryRules.admit. */
export async function admitImage(
  image: Candidate,
  { scope, requirements }: Requirements,
  places: SignaturePlaces,
  services: AdmissionServices,
  call: RegistryCall,
): Promise<void> {
  for (const requirement of requirements) {
    const reason = await objection(image, requirement, places, services, call)
    if (reason !== undefined) throw rejected(formatFamiliar(image.reference), scope, requirement.type, reason)
  }
}

/** Archives carry no signatures. Fails with ISB_POLICY_REJECTED. */
export function admitUnsigned(what: string, { scope, requirements }: Requirements): void {
  for (const { type } of requirements) {
    if (type === 'insecureAcceptAnything') continue
    throw rejected(what, scope, type, type === 'reject' ? undefined : 'an archive carries no signatures')
  }
}

function rejected(what: string, scope: string, type: string, reason: string | undefined): BuilderError {
  return new BuilderError(
    'ISB_POLICY_REJECTED',
    `${what} is rejected by policy.json: ${scope} requires "${type}"${reason ? `: ${reason}` : ''}`,
  )
}

/** undefined: it is met; '' when the requirement speaks for itself. */
async function objection(
  image: Candidate,
  requirement: PolicyRequirement,
  places: SignaturePlaces,
  services: AdmissionServices,
  call: RegistryCall,
): Promise<string | undefined> {
  switch (requirement.type) {
    case 'insecureAcceptAnything':
      return undefined
    case 'reject':
      return ''
    case 'signedBaseLayer':
      return 'which nothing implements'
    default:
      return await signatureObjection(image, requirement, places, services, call)
  }
}

/** A signature of the index counts for the images in it: it names them by their digests. */
async function signatureObjection(
  image: Candidate,
  requirement: Signed,
  places: SignaturePlaces,
  services: AdmissionServices,
  call: RegistryCall,
): Promise<string | undefined> {
  const keys = await readKeys(requirement.keys)
  if (typeof keys === 'string') return keys
  const reasons: string[] = []
  for (const digest of subjects(image)) {
    try {
      const verdicts =
        requirement.type === 'signedBy'
          ? simpleSignatures(image, digest, keys, places, services, call)
          : attachedSignatures(image, digest, keys, places, services, call)
      for await (const verdict of verdicts) {
        const reason = judge(verdict, requirement, image.reference, digest)
        if (reason === undefined) return undefined
        reasons.push(reason)
      }
    } catch (error) {
      call.signal.throwIfAborted()
      if (isBuilderError(error, 'ISB_CANCELLED')) throw error
      reasons.push((error as Error).message)
    }
  }
  if (reasons.length === 0) return 'no signature was found'
  return [...new Set(reasons)].slice(0, 5).join('; ')
}

function subjects({ manifest, index, reference }: Candidate): readonly Digest[] {
  if (index === undefined || index.digest === manifest.digest) return [manifest.digest]
  const document = decodeManifestDocument(index.bytes, `the index of ${formatFamiliar(reference)}`, undefined)
  const holds =
    document.kind === 'index' && document.manifests.some(({ digest }) => digest === manifest.digest)
  return holds ? [manifest.digest, index.digest] : [manifest.digest]
}

async function* simpleSignatures(
  { reference, endpoint }: Candidate,
  digest: Digest,
  keys: readonly Uint8Array[],
  places: SignaturePlaces,
  { workDirectory, lookaside }: AdmissionServices,
  { signal }: RegistryCall,
): AsyncGenerator<Verdict> {
  const directory = lookasideOf(places, physical(reference, endpoint), digestHex(digest))
  for (const signature of await readLookaside(directory, signal, lookaside)) {
    yield await verifyGpg(workDirectory, keys, signature, signal)
  }
}

async function* attachedSignatures(
  { reference, endpoint }: Candidate,
  digest: Digest,
  keys: readonly Uint8Array[],
  places: SignaturePlaces,
  { client }: AdmissionServices,
  call: RegistryCall,
): AsyncGenerator<Verdict> {
  if (!attachmentsOf(places, physical(reference, endpoint))) return
  for (const { payload, signature } of await readAttachments(client(), endpoint, digest, call)) {
    yield verifyWithPublicKeys(keys, payload, signature)
  }
}

/** Signatures are configured for where the image really is. */
function physical(reference: ImageReference, { host, repository }: Endpoint): ImageReference {
  return { ...reference, domain: host, path: repository }
}

/** undefined: this signature is one for the image. */
function judge(
  verdict: Verdict,
  { type, identity }: { readonly type: Signed['type']; readonly identity: SignedIdentity },
  reference: ImageReference,
  digest: Digest,
): string | undefined {
  if (verdict.kind === 'refused') return `a signature is not valid: ${verdict.reason}`
  try {
    const stated = decodePayload(verdict.payload, type)
    if (stated.digest !== digest) return 'a signature is for another image'
    if (identityMatches(identity, reference, stated.reference)) return undefined
    return `a signature is for ${JSON.stringify(stated.reference.slice(0, 300))}`
  } catch (error) {
    if (error instanceof JsonProblem) return `a signature cannot be read: ${error.reason}`
    throw error
  }
}

/** Text: which of them cannot be read. Read anew every time, as keys change while the policy stays. */
async function readKeys(source: KeySource): Promise<readonly Uint8Array[] | string> {
  if (source.kind === 'data') return source.blocks
  const keys: Uint8Array[] = []
  for (const path of source.paths) {
    try {
      keys.push(await readKey(path))
    } catch (error) {
      return `the key ${path} cannot be read: ${(error as Error).message}`
    }
  }
  return keys
}

async function readKey(path: string): Promise<Uint8Array> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const stat = await handle.stat()
    if (!stat.isFile() || stat.size > signatureLimit)
      throw new Error('it is no regular file of reasonable size')
    return await handle.readFile()
  } finally {
    await handle.close()
  }
}
