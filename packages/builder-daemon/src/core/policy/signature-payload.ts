import { type Digest, parseDigest } from '@isula-build/shared/oci/digest.js'
import { type JsonNode, JsonProblem, parseStrictJson } from './strict-json.js'

/** What a signature says. */
export interface SignaturePayload {
  /** Of the manifest or index. */
  readonly digest: Digest
  /** The name it was signed for, not parsed. */
  readonly reference: string
}

const types = {
  signedBy: 'atomic container signature',
  sigstoreSigned: 'cosign container image signature',
} as const

/**
 * Decodes what was signed (containers/image, docs/containers-signature.5.md; cosign, SIGNATURE_SPEC.md). Everything below
 * `critical` has to be understood. Only for bytes whose signature is verified. Fails with JsonProblem.
 */
export function decodePayload(bytes: Uint8Array, kind: keyof typeof types): SignaturePayload {
  const root = parseStrictJson(textOf(bytes))
  const [critical] = fields(root, ['critical'], ['optional'])
  const [type, image, identity] = fields(critical, ['type', 'image', 'identity'], [])
  const [digest] = fields(image, ['docker-manifest-digest'], [])
  const [reference] = fields(identity, ['docker-reference'], [])
  if (stringOf(type) !== types[kind]) {
    throw new JsonProblem(
      type?.line ?? 1,
      `its type is ${JSON.stringify(stringOf(type))}, not "${types[kind]}"`,
    )
  }
  const parsed = parseDigest(stringOf(digest))
  if (parsed === undefined) throw new JsonProblem(digest?.line ?? 1, 'its digest is not a sha256 digest')
  return { digest: parsed, reference: stringOf(reference) }
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new JsonProblem(1, 'is not UTF-8')
  }
}

/** The members `wanted`, all of which must be there, with nothing beside them but `allowed`. */
function fields(
  node: JsonNode | undefined,
  wanted: readonly string[],
  allowed: readonly string[],
): readonly JsonNode[] {
  if (node?.kind !== 'object') throw new JsonProblem(node?.line ?? 1, 'an object is expected')
  for (const [key, { line }] of node.members) {
    if (!wanted.includes(key) && !allowed.includes(key)) {
      throw new JsonProblem(line, `unknown key ${JSON.stringify(key)}`)
    }
  }
  return wanted.map((key) => {
    const value = node.members.get(key)
    if (value === undefined) throw new JsonProblem(node.line, `${JSON.stringify(key)} is missing`)
    return value
  })
}

function stringOf(node: JsonNode | undefined): string {
  if (node?.kind === 'string') return node.value
  throw new JsonProblem(node?.line ?? 1, 'a string is expected')
}
