import { parseReference } from '@isula-build/shared/oci/reference.js'
import { expect, test } from 'vitest'
import type { SignedIdentity } from './policy.js'
import { identityMatches } from './signed-identity.js'

const hex = 'a'.repeat(64)
const other = 'b'.repeat(64)
const remap = (prefix: string, signedPrefix: string): SignedIdentity => ({
  type: 'remapIdentity',
  prefix,
  signedPrefix,
})
const exactReference: SignedIdentity = { type: 'exactReference', reference: parseReference('quay.io/a/b:1') }
const exactRepository: SignedIdentity = { type: 'exactRepository', reference: parseReference('quay.io/a/b') }

test.each<[SignedIdentity | SignedIdentity['type'], string, string, boolean]>([
  ['matchExact', 'quay.io/a:1', 'quay.io/a:1', true],
  ['matchExact', 'busybox:1', 'docker.io/library/busybox:1', true],
  ['matchExact', 'docker.io/library/busybox:1', 'busybox:1', true],
  ['matchExact', 'quay.io/a:1', 'quay.io/a:2', false],
  ['matchExact', 'quay.io/a:1', 'quay.io/a', false],
  ['matchExact', 'quay.io/a:latest', 'quay.io/a', false],
  ['matchExact', `quay.io/a@sha256:${hex}`, 'quay.io/a:1', false],
  ['matchExact', `quay.io/a@sha256:${hex}`, `quay.io/a@sha256:${hex}`, true],
  ['matchExact', `quay.io/a:1@sha256:${hex}`, `quay.io/a@sha256:${hex}`, true],
  ['matchRepoDigestOrExact', 'quay.io/a:1', 'quay.io/a:1', true],
  ['matchRepoDigestOrExact', 'QUAY.io/a:1', 'quay.io/a:1', true],
  ['matchRepoDigestOrExact', 'quay.io/a:1', 'quay.io/a:2', false],
  ['matchRepoDigestOrExact', 'quay.io/a:1', 'quay.io/a', false],
  ['matchRepoDigestOrExact', 'quay.io/a:1', `quay.io/a@sha256:${hex}`, false],
  ['matchRepoDigestOrExact', `quay.io/a@sha256:${hex}`, 'quay.io/a:7', true],
  ['matchRepoDigestOrExact', `quay.io/a@sha256:${hex}`, `quay.io/a@sha256:${other}`, true],
  ['matchRepoDigestOrExact', `quay.io/a:1@sha256:${hex}`, 'quay.io/a:7', true],
  ['matchRepoDigestOrExact', `quay.io/a@sha256:${hex}`, 'quay.io/a', false],
  ['matchRepoDigestOrExact', `quay.io/a@sha256:${hex}`, 'quay.io/b:7', false],
  ['matchRepository', 'quay.io/a:1', 'quay.io/a:2', true],
  ['matchRepository', 'quay.io/a:1', 'quay.io/a', true],
  ['matchRepository', 'quay.io/a:1', 'quay.io/a/b', false],
  ['matchRepository', 'quay.io/a:1', 'quay.io:443/a', false],
  [exactReference, 'mirror.test/x:9', 'quay.io/a/b:1', true],
  [exactReference, 'quay.io/a/b:1', 'quay.io/a/b:2', false],
  [exactReference, 'quay.io/a/b:1', 'quay.io/a/b', false],
  [exactRepository, 'mirror.test/x:9', 'quay.io/a/b:7', true],
  [exactRepository, 'mirror.test/x:9', 'quay.io/a/b', true],
  [exactRepository, 'quay.io/a/b:1', 'quay.io/a/c:1', false],
  [remap('mirror.test', 'quay.io/a'), 'mirror.test/b:1', 'quay.io/a/b:1', true],
  [remap('mirror.test', 'quay.io/a'), 'mirror.test/b:1', 'quay.io/a/b:2', false],
  [remap('mirror.test/x', 'quay.io'), 'mirror.test/xy/b:1', 'quay.io/y/b:1', false],
  [remap('mirror.test/x', 'quay.io'), 'mirror.test/xy/b:1', 'mirror.test/xy/b:1', true],
  [remap('mirror.test/x/b', 'quay.io/b'), 'mirror.test/x/b:1', 'quay.io/b:1', true],
  [remap('mirror.test', 'quay.io'), `mirror.test/b@sha256:${hex}`, 'quay.io/b:3', true],
  [remap('mirror.test', 'quay.io'), 'mirror.test:5000/b:1', 'quay.io:5000/b:1', false],
  ['matchRepository', 'quay.io/a:1', 'quay.io/A', false],
  ['matchRepository', 'quay.io/a:1', '', false],
  ['matchRepository', 'quay.io/a:1', 'quay.io/a:1\0', false],
])('%j of %s by a signature for %j: %s', (identity, asked, signed, matches) => {
  const rule = typeof identity === 'string' ? ({ type: identity } as SignedIdentity) : identity
  expect(identityMatches(rule, parseReference(asked), signed)).toBe(matches)
})
