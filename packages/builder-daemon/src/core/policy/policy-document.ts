import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type ImageReference, parseReference } from '@isula-build/shared/oci/reference.js'
import { isLocation } from '../registries/prefix.js'
import type { KeySource, Policy, PolicyRequirement, SignedIdentity } from './policy.js'
import { type JsonNode, JsonProblem, parseStrictJson } from './strict-json.js'

type Members = ReadonlyMap<string, JsonNode>

const keyless = [
  'fulcio',
  'pki',
  'rekorPublicKeyPath',
  'rekorPublicKeyData',
  'rekorPublicKeyPaths',
  'rekorPublicKeyDatas',
]
const keyFields = ['keyPath', 'keyPaths', 'keyData', 'keyDatas']

/**
 * Decodes policy.json. What is not understood is refused, not skipped: a requirement that is overlooked lets images in.
 * Fails with ISB_CONFIG_INVALID naming file and line.
 */
export function decodePolicy(text: string, file: string): Policy {
  try {
    return policyOf(parseStrictJson(text))
  } catch (error) {
    if (!(error instanceof JsonProblem)) throw error
    throw new BuilderError('ISB_CONFIG_INVALID', `${file}:${error.line}: ${error.reason}`, { cause: error })
  }
}

function policyOf(node: JsonNode): Policy {
  const members = objectOf(node, 'the policy')
  refuseUnknown(members, ['default', 'transports'], 'the policy')
  const standard = members.get('default')
  if (standard === undefined) throw new JsonProblem(node.line, '`default` must be a list of requirements')
  const transports = members.get('transports')
  return {
    default: requirementsOf(standard, '`default`'),
    transports: mapOf(transports, '`transports`', (scopes, transport) =>
      mapOf(scopes, `\`transports.${transport}\``, (requirements, scope) =>
        requirementsOf(checkedScope(requirements, transport, scope), `scope ${JSON.stringify(scope)}`),
      ),
    ),
  }
}

function mapOf<T>(
  node: JsonNode | undefined,
  what: string,
  decode: (value: JsonNode, key: string) => T,
): ReadonlyMap<string, T> {
  if (node === undefined) return new Map()
  return new Map([...objectOf(node, what)].map(([key, value]) => [key, decode(value, key)]))
}

/** A scope that can never be looked up is a typing error, and an image it was meant for would go by another one. */
function checkedScope(node: JsonNode, transport: string, scope: string): JsonNode {
  const isPath = transport === 'docker-archive' || transport === 'oci-archive'
  if (scope === '' || (transport !== 'docker' && !isPath)) return node
  const shown = JSON.stringify(scope)
  if (transport === 'docker-archive') throw new JsonProblem(node.line, `docker-archive has no scope ${shown}`)
  if (isPath && !/^\/(?!.*\/(\.{0,2})(\/|$))/.test(scope)) {
    throw new JsonProblem(node.line, `scope ${shown} is no absolute path without . and ..`)
  }
  if (transport === 'docker' && (/[\s\0]|:\/\/|\/$/.test(scope) || /\*/.test(scope.replace(/^\*\./, '')))) {
    throw new JsonProblem(node.line, `scope ${shown} is neither a part of a reference nor *.domain`)
  }
  return node
}

function requirementsOf(node: JsonNode, what: string): readonly PolicyRequirement[] {
  if (node.kind !== 'array') throw new JsonProblem(node.line, `${what} must be a list of requirements`)
  if (node.items.length === 0) throw new JsonProblem(node.line, `${what} must not be an empty list`)
  return node.items.map(requirementOf)
}

function requirementOf(node: JsonNode): PolicyRequirement {
  const members = objectOf(node, 'a requirement')
  const type = stringIn(members, 'type', node)
  switch (type) {
    case 'insecureAcceptAnything':
    case 'reject':
      refuseUnknown(members, ['type'], type)
      return { type }
    case 'signedBaseLayer':
      refuseUnknown(members, ['type', 'baseLayerIdentity'], type)
      identityOf(required(members, 'baseLayerIdentity', node))
      return { type }
    case 'signedBy': {
      refuseUnknown(members, ['type', 'keyType', 'signedIdentity', ...keyFields.slice(0, 3)], type)
      const keyType = stringIn(members, 'keyType', node)
      if (keyType === 'GPGKeys') return signed(type, members, node)
      throw new JsonProblem(node.line, `keyType ${JSON.stringify(keyType)} is not supported, only GPGKeys is`)
    }
    case 'sigstoreSigned': {
      const found = keyless.find((key) => members.has(key))
      if (found !== undefined) {
        throw new JsonProblem(
          members.get(found)?.line ?? node.line,
          `\`${found}\` is not supported: signatures without a key of one's own (Fulcio, Rekor, PKI) are not verified here, use keyPath or keyData`,
        )
      }
      refuseUnknown(members, ['type', 'signedIdentity', ...keyFields], type)
      return signed(type, members, node)
    }
    default:
      throw new JsonProblem(node.line, `unknown policy requirement type ${JSON.stringify(type)}`)
  }
}

function signed(type: 'signedBy' | 'sigstoreSigned', members: Members, node: JsonNode): PolicyRequirement {
  const identity = members.get('signedIdentity')
  return {
    type,
    keys: keysOf(members, node),
    identity: identity === undefined ? { type: 'matchRepoDigestOrExact' } : identityOf(identity),
  }
}

function keysOf(members: Members, node: JsonNode): KeySource {
  const given = keyFields.filter((key) => members.has(key))
  const [field] = given
  if (field === undefined || given.length > 1) {
    throw new JsonProblem(node.line, `exactly one of ${keyFields.join(', ')} is needed`)
  }
  const value = required(members, field, node)
  const texts = field.endsWith('s') ? listOf(value, field) : [stringOf(value, field)]
  if (texts.length === 0) throw new JsonProblem(value.line, `\`${field}\` must not be empty`)
  if (field.startsWith('keyPath')) {
    const relative = texts.find((path) => !path.startsWith('/') || path.includes('\0'))
    if (relative === undefined) return { kind: 'files', paths: texts }
    throw new JsonProblem(value.line, `\`${field}\` must be absolute, not ${JSON.stringify(relative)}`)
  }
  return { kind: 'data', blocks: texts.map((text) => base64Of(text, value, field)) }
}

function base64Of(text: string, node: JsonNode, field: string): Uint8Array {
  const compact = text.replace(/[\r\n]/g, '')
  const bytes = Buffer.from(compact, 'base64')
  if (compact === '' || bytes.toString('base64') !== compact) {
    throw new JsonProblem(node.line, `\`${field}\` is not base64`)
  }
  return bytes
}

function identityOf(node: JsonNode): SignedIdentity {
  const members = objectOf(node, '`signedIdentity`')
  const type = stringIn(members, 'type', node)
  switch (type) {
    case 'matchExact':
    case 'matchRepoDigestOrExact':
    case 'matchRepository':
      refuseUnknown(members, ['type'], type)
      return { type }
    case 'exactReference': {
      refuseUnknown(members, ['type', 'dockerReference'], type)
      const reference = referenceIn(members, 'dockerReference', node)
      if (reference.tag !== undefined || reference.digest !== undefined) return { type, reference }
      throw new JsonProblem(node.line, '`dockerReference` has neither tag nor digest')
    }
    case 'exactRepository':
      refuseUnknown(members, ['type', 'dockerRepository'], type)
      return { type, reference: referenceIn(members, 'dockerRepository', node) }
    case 'remapIdentity':
      refuseUnknown(members, ['type', 'prefix', 'signedPrefix'], type)
      return {
        type,
        prefix: prefixIn(members, 'prefix', node),
        signedPrefix: prefixIn(members, 'signedPrefix', node),
      }
    default:
      throw new JsonProblem(node.line, `unknown signedIdentity type ${JSON.stringify(type)}`)
  }
}

function referenceIn(members: Members, key: string, node: JsonNode): ImageReference {
  const text = stringIn(members, key, node)
  try {
    return parseReference(text)
  } catch (error) {
    if (isBuilderError(error)) throw new JsonProblem(node.line, `\`${key}\`: ${error.message}`)
    throw error
  }
}

function prefixIn(members: Members, key: string, node: JsonNode): string {
  const text = stringIn(members, key, node)
  if (isLocation(text)) return text
  throw new JsonProblem(node.line, `\`${key}\` ${JSON.stringify(text)} is not host[:port][/namespace…]`)
}

function refuseUnknown(members: Members, known: readonly string[], what: string): void {
  for (const [key, { line }] of members) {
    if (!known.includes(key)) throw new JsonProblem(line, `unknown key ${JSON.stringify(key)} in ${what}`)
  }
}

function required(members: Members, key: string, node: JsonNode): JsonNode {
  const value = members.get(key)
  if (value === undefined) throw new JsonProblem(node.line, `\`${key}\` is missing`)
  return value
}

function stringIn(members: Members, key: string, node: JsonNode): string {
  return stringOf(required(members, key, node), key)
}

function stringOf(node: JsonNode, key: string): string {
  if (node.kind === 'string') return node.value
  throw new JsonProblem(node.line, `\`${key}\` must be a string`)
}

function listOf(node: JsonNode, key: string): readonly string[] {
  if (node.kind === 'array') return node.items.map((item) => stringOf(item, key))
  throw new JsonProblem(node.line, `\`${key}\` must be a list of strings`)
}

function objectOf(node: JsonNode, what: string): Members {
  if (node.kind === 'object') return node.members
  throw new JsonProblem(node.line, `${what} must be an object`)
}
