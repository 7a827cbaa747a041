import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseReference } from '@isula-build/shared/oci/reference.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { attachmentsOf, lookasideOf } from '../core/policy/signature-places.js'
import { readSignaturePlaces } from './signature-places.js'

let directory = ''
const write = (name: string, text: string): void => writeFileSync(join(directory, name), text)
const hex = 'a'.repeat(64)

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-places-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

test('the file that Debian and Fedora install is read', () => {
  write(
    'default.yaml',
    `# This is a default registries.d configuration file.
#
#   - default-docker: a comment
---
# This is the default signature write location for docker registries.
default-docker:
#  lookaside: file:///var/lib/containers/sigstore
  lookaside-staging: file:///var/lib/containers/sigstore

# The 'docker' indicator here is the start of the configuration
docker:
  privateregistry.com:
    lookaside: "https://privateregistry.com/sigstore/"   # quoted
  localhost:5000:
    sigstore: 'file:///srv/it''s'
    use-sigstore-attachments: false
  "*.example.com": {}
  registry.test/dev/foo:
    lookaside: http://a.test/x#1y
`.replace('#1y', ' # y'),
  )
  const { places, warnings } = readSignaturePlaces(directory)
  expect(warnings).toEqual([])
  const url = (reference: string): string => lookasideOf(places, parseReference(reference), hex).href
  expect(url('privateregistry.com/a/b:1')).toBe(`https://privateregistry.com/sigstore/a/b@sha256=${hex}`)
  expect(url('localhost:5000/a:1')).toBe(`file:///srv/it's/a@sha256=${hex}`)
  expect(url('registry.test/dev/foo:1')).toBe(`http://a.test/x/dev/foo@sha256=${hex}`)
  expect(url('registry.test/dev/bar:1')).toBe(`file:///var/lib/containers/sigstore/dev/bar@sha256=${hex}`)
  expect(attachmentsOf(places, parseReference('localhost:5000/a:1'))).toBe(false)
  expect(attachmentsOf(places, parseReference('quay.io/a:1'))).toBe(true)
})

test('a scope that says nothing leaves it to the wider ones', () => {
  write('a.yaml', 'default-docker:\n  use-sigstore-attachments: false\n  lookaside: file:///all\n')
  write(
    'b.yaml',
    'docker:\n  quay.io:\n    lookaside: file:///quay\n  quay.io/x:\n    use-sigstore-attachments: true\n',
  )
  write('ignored.conf', '][')
  const { places } = readSignaturePlaces(directory)
  expect(lookasideOf(places, parseReference('quay.io/x:1'), hex).pathname).toBe(`/quay/x@sha256=${hex}`)
  expect(attachmentsOf(places, parseReference('quay.io/x:1'))).toBe(true)
  expect(attachmentsOf(places, parseReference('quay.io/y:1'))).toBe(false)
  expect(lookasideOf(places, parseReference('a.test/y:1'), hex).pathname).toBe(`/all/y@sha256=${hex}`)
})

test('a missing directory is an empty one', () => {
  expect(readSignaturePlaces(join(directory, 'none')).places.scopes.size).toBe(0)
})

test('unknown keys are warned of', () => {
  write('a.yaml', 'other:\n  x: y\ndefault-docker:\n  lookasid: file:///x\n')
  expect(readSignaturePlaces(directory).warnings).toEqual([
    `${directory}/a.yaml:1: \`other\` is not known, it has no effect`,
    `${directory}/a.yaml:4: \`lookasid\` is not known, it has no effect`,
  ])
})

test('nothing is said twice', () => {
  write('a.yaml', 'docker:\n  Quay.io:\n    lookaside: file:///a\n')
  write('b.yaml', 'docker:\n  quay.io:\n    lookaside: file:///b\n')
  expect(() => readSignaturePlaces(directory)).toThrow(
    /b\.yaml:2: scope "quay\.io" is configured in .*a\.yaml already/,
  )
})

test.each([
  ['default-docker: text\n', ':1: `a scope` must be a mapping'],
  ['default-docker:\n  lookaside: ftp://x\n', ':2: "ftp://x" is no file, http or https URL'],
  ['default-docker:\n  lookaside: /srv\n', ':2: "/srv" is no file, http or https URL'],
  ['default-docker:\n  lookaside: https://u:p@h/\n', ':2: the URL must have no user'],
  ['default-docker:\n  lookaside: file://host/x\n', ':2: the URL must have no user'],
  [
    'default-docker:\n  use-sigstore-attachments: yes\n',
    ':2: `use-sigstore-attachments` must be true or false',
  ],
  ['default-docker:\n\tlookaside: file:///x\n', ':2: the line is indented with a tab'],
  ['default-docker:\n    lookaside: file:///x\n   sigstore: file:///y\n', ':3: the line is'],
  ['default-docker:\n  lookaside: file:///x\n    sigstore: file:///y\n', ':3: the line is indented more'],
  [
    'default-docker:\n  lookaside: file:///x\n  lookaside: file:///y\n',
    ':3: the line has the key "lookaside" a second',
  ],
  ['docker: &a\n  x: y\n', ':1: the line has the value &a'],
  ['docker: {a: b}\n', ':1: the line has the value {a: b}'],
  ['docker:\n  - x\n', ':2: the line is not of the form'],
  ['docker:\n  a: |\n    b\n', ':2: the line has the value |'],
  ['docker:\n  a: b: c\n', ':2: the line has the value b: c'],
  ['docker:\n  "a: b\n', ':2: the line is not of the form'],
  ['just text\n', ':1: the line is not of the form'],
  ['? a\n: b\n', ':1: the line is not of the form'],
  [Array.from({ length: 30 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n'), 'nested too deeply'],
])('%j is refused with its line', (text, reason) => {
  write('a.yaml', text)
  expect(() => readSignaturePlaces(directory)).toThrow(
    expect.objectContaining({ code: 'ISB_CONFIG_INVALID' }),
  )
  expect(() => readSignaturePlaces(directory)).toThrow(reason)
})

test('what is no directory is refused', () => {
  write('file', '')
  expect(() => readSignaturePlaces(join(directory, 'file'))).toThrow('cannot read')
  mkdirSync(join(directory, 'x.yaml'))
  expect(() => readSignaturePlaces(directory)).toThrow('x.yaml is not a regular file')
})
