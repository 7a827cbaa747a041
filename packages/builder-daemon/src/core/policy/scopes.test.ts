import { parseReference } from '@isula-build/shared/oci/reference.js'
import { expect, test } from 'vitest'
import { decodePolicy } from './policy-document.js'
import { archiveRequirements, dockerScopes, requirementsFor } from './scopes.js'

const hex = 'a'.repeat(64)

test('scopes of a reference, the most specific first', () => {
  expect(dockerScopes(parseReference('a.b.c:5000/x/y:1'))).toEqual([
    ...['a.b.c:5000/x/y:1', 'a.b.c:5000/x/y', 'a.b.c:5000/x', 'a.b.c:5000', '*.b.c', '*.c'],
  ])
  expect(dockerScopes(parseReference(`busybox:1@sha256:${hex}`))).toEqual([
    ...[
      `docker.io/library/busybox@sha256:${hex}`,
      'docker.io/library/busybox:1',
      'docker.io/library/busybox',
    ],
    ...['docker.io/library', 'docker.io', '*.io'],
  ])
  expect(dockerScopes(parseReference('[::1]:5000/x:1'))).toEqual([
    '[::1]:5000/x:1',
    '[::1]:5000/x',
    '[::1]:5000',
  ])
})

const reject = [{ type: 'reject' }]
const accept = [{ type: 'insecureAcceptAnything' }]
const policy = decodePolicy(
  JSON.stringify({
    default: reject,
    transports: {
      docker: {
        'Quay.io': accept,
        'quay.io/team': reject,
        'quay.io/team/app': accept,
        'quay.io/team/app:bad': reject,
        '*.b.test': accept,
        'x.b.test:5000': reject,
      },
      'docker-archive': { '': accept },
      'oci-archive': { '/srv': accept, '/srv/bad': reject },
    },
  }),
  'policy.json',
)

test.each([
  ['quay.io/a:1', 'transports.docker["Quay.io"]', 'insecureAcceptAnything'],
  ['QUAY.IO/team/a:1', 'transports.docker["quay.io/team"]', 'reject'],
  ['quay.io:443/team/a:1', 'transports.docker["quay.io/team"]', 'reject'],
  ['quay.io/teams/a:1', 'transports.docker["Quay.io"]', 'insecureAcceptAnything'],
  ['quay.io/team/app:1', 'transports.docker["quay.io/team/app"]', 'insecureAcceptAnything'],
  ['quay.io/team/app:bad', 'transports.docker["quay.io/team/app:bad"]', 'reject'],
  [`quay.io/team/app:bad@sha256:${hex}`, 'transports.docker["quay.io/team/app:bad"]', 'reject'],
  [`quay.io/team/app@sha256:${hex}`, 'transports.docker["quay.io/team/app"]', 'insecureAcceptAnything'],
  ['quay.io:5000/a:1', 'default', 'reject'],
  ['a.b.test:5000/x:1', 'transports.docker["*.b.test"]', 'insecureAcceptAnything'],
  ['x.b.test:5000/x:1', 'transports.docker["x.b.test:5000"]', 'reject'],
  ['b.test/x:1', 'default', 'reject'],
  ['busybox:1', 'default', 'reject'],
])('%s is decided by %s', (reference, scope, type) => {
  expect(requirementsFor(policy, parseReference(reference))).toEqual({ scope, requirements: [{ type }] })
})

test.each([
  ['docker-archive', '/srv/bad/a.tar', 'insecureAcceptAnything'],
  ['oci-archive', '/srv/a.tar', 'insecureAcceptAnything'],
  ['oci-archive', '/srv/bad/a.tar', 'reject'],
  ['oci-archive', '/srv/badly/a.tar', 'insecureAcceptAnything'],
  ['oci-archive', '/tmp/a.tar', 'reject'],
  ['oci-archive', undefined, 'reject'],
] as const)('%s %s is decided by its place', (transport, path, type) => {
  expect(archiveRequirements(policy, transport, path).requirements).toEqual([{ type }])
})
