import { digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import type { ListEntry } from '../../ports/manifest-lists.js'
import { decodeListPlatform, encodeList, listOf, pickEntry } from './list-document.js'

const entry = (architecture: string, variant?: string): ListEntry => ({
  ...{ digest: digestOf(`${architecture}${variant}`), size: 7, mediaType: 'm' },
  platform: { os: 'linux', architecture, ...(variant === undefined ? {} : { variant }) },
  origin: { kind: 'remote', name: 'r.test/a' },
})

test('a list has the fields of the specification in a fixed order', () => {
  const platform = {
    osVersion: '10',
    features: ['sse4'],
    osFeatures: ['win32k'],
    os: 'windows',
    architecture: 'amd64',
  }
  const listed = { ...entry('amd64'), platform, annotations: { b: '2', a: '1' } }
  const { bytes, descriptor } = encodeList('oci', [listed], { c: '3' })
  expect(Buffer.from(bytes).toString()).toBe(
    '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[' +
      `{"mediaType":"m","digest":"${listed.digest}","size":7,"annotations":{"a":"1","b":"2"},` +
      '"platform":{"architecture":"amd64","os":"windows","features":["sse4"],' +
      '"os.features":["win32k"],"os.version":"10"}}],"annotations":{"c":"3"}}',
  )
  expect(descriptor.digest).toBe(digestOf(bytes))
  const json = JSON.parse(Buffer.from(bytes).toString())
  expect(decodeListPlatform(json.manifests[0].platform, 'p')).toEqual(platform)
})

test("Docker's list has no annotations", () => {
  const { bytes } = encodeList('docker', [{ ...entry('amd64'), annotations: { a: '1' } }], { c: '3' })
  expect(Buffer.from(bytes).toString()).not.toContain('annotations')
})

test('the ID is the digest of the document', () => {
  const rest = {
    name: 'a:1',
    format: 'docker',
    entries: [entry('arm64')],
    annotations: {},
    owner: 0,
    createdAt: 1,
  } as const
  const { descriptor } = encodeList('docker', rest.entries, {})
  expect(listOf(rest).id).toBe(descriptor.digest.slice(7))
})

test('the entry that runs best is picked', () => {
  const entries = [entry('386'), entry('arm', 'v6'), entry('arm', 'v7'), entry('amd64')]
  const picked = (architecture: string, variant?: string) =>
    pickEntry(entries, entry(architecture, variant).platform)?.platform
  expect(picked('amd64')).toEqual({ os: 'linux', architecture: 'amd64' })
  expect(picked('arm', 'v7')).toMatchObject({ variant: 'v7' })
  expect(picked('arm', 'v6')).toMatchObject({ variant: 'v6' })
  expect(picked('arm64')).toMatchObject({ architecture: 'arm', variant: 'v7' })
  expect(picked('s390x')).toBeUndefined()
})
