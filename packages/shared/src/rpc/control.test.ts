import { describe, expect, test } from 'vitest'
import type { Decoded, MessageType } from './codec.js'
import * as control from './control.js'
import { createReader, readTag, skipValue } from './wire-reader.js'

// Written by hand from the field numbers of the original's service; never regenerate them.
const golden: readonly (readonly [name: keyof typeof control, hex: string, value: object])[] = [
  [
    'BuildRequest',
    [
      '0a 01 61',
      '12 07 63 74 72 2d 69 6d 67',
      '1a 02 2f 63',
      '22 06 46 52 4f 4d 20 62',
      '2a 01 6f',
      '32 03 4b 3d 56',
      '32 00',
      '38 01',
      '42 01 69',
      '4a 07 0a 05 08 ac 02 10 05',
      '52 01 74',
      '5a 05 43 41 50 5f 58',
      '62 01 65',
      '68 01',
      '72 03 6f 63 69',
    ].join(' '),
    {
      buildID: 'a',
      buildType: 'ctr-img',
      contextDir: '/c',
      fileContent: 'FROM b',
      output: 'o',
      buildArgs: ['K=V', ''],
      proxy: true,
      iidfile: 'i',
      buildStatic: { buildTime: { seconds: 300, nanos: 5 } },
      additionalTag: 't',
      capAddList: ['CAP_X'],
      entityID: 'e',
      encrypted: true,
      format: 'oci',
    },
  ],
  ['BuildResponse', '0a 02 69 64', { imageID: 'id' }],
  ['BuildStatic', '0a 02 08 01', { buildTime: { seconds: 1, nanos: 0 } }],
  ['StatusRequest', '0a 01 61', { buildID: 'a' }],
  ['StatusResponse', '0a 03 e2 82 ac', { content: '€' }],
  ['ListRequest', '0a 01 6e', { imageName: 'n' }],
  [
    'ImageInfo',
    '0a 01 72 12 01 74 1a 01 69 22 01 63 2a 01 73',
    { repository: 'r', tag: 't', id: 'i', created: 'c', size: 's' },
  ],
  [
    'ListResponse',
    '0a 03 0a 01 72 0a 03 12 01 74',
    {
      images: [
        { repository: 'r', tag: '', id: '', created: '', size: '' },
        { repository: '', tag: 't', id: '', created: '', size: '' },
      ],
    },
  ],
  ['TagRequest', '0a 01 69 12 01 74', { image: 'i', tag: 't' }],
  ['RemoveRequest', '0a 01 61 0a 01 62 10 01 18 01', { imageID: ['a', 'b'], all: true, prune: true }],
  ['RemoveResponse', '0a 01 6c', { layerMessage: 'l' }],
  ['HealthCheckResponse', '08 01', { status: 'SERVING' }],
  ['HealthCheckResponse', '08 02', { status: 'NOT_SERVING' }],
  ['HealthCheckResponse', '', { status: 'UNKNOWN' }],
  ['LoginRequest', '0a 01 73 12 01 75 1a 01 70', { server: 's', username: 'u', password: 'p' }],
  ['LoginResponse', '0a 01 63', { content: 'c' }],
  ['LogoutRequest', '0a 01 73 10 01', { server: 's', all: true }],
  ['LogoutResponse', '0a 01 72', { result: 'r' }],
  [
    'LoadRequest',
    '0a 01 70 12 01 69 1a 10 0a 01 61 12 01 64 1a 01 62 22 01 6c 28 01 30 01',
    {
      path: 'p',
      loadID: 'i',
      sep: { app: 'a', dir: 'd', base: 'b', lib: 'l', skipCheck: true, enabled: true },
    },
  ],
  [
    'SeparatorLoad',
    '0a 01 61 12 01 64 1a 01 62 22 01 6c 28 01 30 01',
    { app: 'a', dir: 'd', base: 'b', lib: 'l', skipCheck: true, enabled: true },
  ],
  ['LoadResponse', '0a 01 6c', { log: 'l' }],
  [
    'SaveRequest',
    '0a 01 69 12 01 61 12 01 62 1a 01 70 22 01 66 2a 0e 0a 01 62 12 01 6c 1a 01 72 22 01 64 28 01',
    {
      saveID: 'i',
      images: ['a', 'b'],
      path: 'p',
      format: 'f',
      sep: { base: 'b', lib: 'l', rename: 'r', dest: 'd', enabled: true },
    },
  ],
  [
    'EarlierSaveRequest',
    '0a 01 61 0a 01 62 12 01 70 1a 01 69 22 01 66 2a 0e 0a 01 62 12 01 6c 1a 01 72 22 01 64 28 01',
    {
      images: ['a', 'b'],
      path: 'p',
      saveID: 'i',
      format: 'f',
      sep: { base: 'b', lib: 'l', rename: 'r', dest: 'd', enabled: true },
    },
  ],
  [
    'SeparatorSave',
    '0a 01 62 12 01 6c 1a 01 72 22 01 64 28 01',
    { base: 'b', lib: 'l', rename: 'r', dest: 'd', enabled: true },
  ],
  ['SaveResponse', '0a 01 6c', { log: 'l' }],
  ['ImportRequest', '0a 01 69 12 01 73 1a 01 72', { importID: 'i', source: 's', reference: 'r' }],
  ['ImportResponse', '0a 01 6c', { log: 'l' }],
  ['PushRequest', '0a 01 69 12 01 6e 1a 01 66', { pushID: 'i', imageName: 'n', format: 'f' }],
  ['PushResponse', '0a 01 72', { response: 'r' }],
  ['PullRequest', '0a 01 69 12 01 6e', { pullID: 'i', imageName: 'n' }],
  ['PullResponse', '0a 01 72', { response: 'r' }],
  ['InfoRequest', '08 01', { verbose: true }],
  [
    'MemData',
    '08 80 80 80 80 10 10 ff ff ff ff ff ff ff ff ff 01 18 01 20 7f',
    { memTotal: 4_294_967_296, memFree: -1, swapTotal: 1, swapFree: 127 },
  ],
  ['StorageData', '0a 01 64 12 01 66', { storageDriver: 'd', storageBackingFs: 'f' }],
  [
    'RegistryData',
    '0a 01 73 12 01 69 1a 01 62',
    { registriesSearch: ['s'], registriesInsecure: ['i'], registriesBlock: ['b'] },
  ],
  [
    'MemStat',
    '08 01 10 02 18 03 20 80 01 28 ff ff ff ff ff ff ff 0f 30 06',
    {
      memSys: 1,
      heapSys: 2,
      heapAlloc: 3,
      heapInUse: 128,
      heapIdle: Number.MAX_SAFE_INTEGER,
      heapReleased: 6,
    },
  ],
  [
    'InfoResponse',
    '0a 02 20 01 12 02 12 00 1a 00 22 01 64 2a 01 72 32 04 72 75 6e 63 38 07 40 08 4a 02 30 01 50 01',
    {
      memInfo: { memTotal: 0, memFree: 0, swapTotal: 0, swapFree: 1 },
      storageInfo: { storageDriver: '', storageBackingFs: '' },
      registryInfo: { registriesSearch: [], registriesInsecure: [], registriesBlock: [] },
      dataRoot: 'd',
      runRoot: 'r',
      OCIRuntime: 'runc',
      builderNum: 7,
      goRoutines: 8,
      memStat: { memSys: 0, heapSys: 0, heapAlloc: 0, heapInUse: 0, heapIdle: 0, heapReleased: 1 },
      experimental: true,
    },
  ],
  [
    'VersionResponse',
    '0a 01 76 12 01 67 1a 01 63 22 01 74 2a 01 61',
    { version: 'v', goVersion: 'g', gitCommit: 'c', buildTime: 't', osArch: 'a' },
  ],
  ['ManifestCreateRequest', '0a 01 6c 12 01 61 12 01 62', { manifestList: 'l', manifests: ['a', 'b'] }],
  ['ManifestCreateResponse', '0a 01 69', { imageID: 'i' }],
  [
    'ManifestAnnotateRequest',
    '0a 01 6c 12 01 6d 1a 01 61 22 01 6f 2a 01 66 2a 01 67 32 01 76',
    { manifestList: 'l', manifest: 'm', arch: 'a', os: 'o', osFeatures: ['f', 'g'], variant: 'v' },
  ],
  ['ManifestInspectRequest', '0a 01 6c', { manifestList: 'l' }],
  ['ManifestInspectResponse', '0a 02 ff 00', { data: Buffer.from([0xff, 0]) }],
  ['ManifestPushRequest', '0a 01 6c 12 01 64', { manifestList: 'l', dest: 'd' }],
  ['ManifestPushResponse', '0a 01 72', { result: 'r' }],
]

/** Forms another encoder may choose; decoding accepts them, encoding never makes them. */
const lenient = new Set(['12 02 12 00'])

function messageNamed(name: keyof typeof control): MessageType<unknown, unknown> {
  const found = Object.entries(control).find(([key]) => key === name)?.[1]
  if (found === undefined || !('kind' in found) || found.kind !== 'message')
    throw new Error(`${name} is no message`)
  return found as MessageType<unknown, unknown>
}

function numbersIn(hex: string): number[] {
  const reader = createReader(Buffer.from(hex.replaceAll(' ', ''), 'hex'))
  const numbers: number[] = []
  while (reader.pos < reader.end) {
    const { number, wireType } = readTag(reader)
    skipValue(reader, number, wireType, 0)
    numbers.push(number)
  }
  return numbers
}

describe('the bytes of the original service', () => {
  test.each(golden)('%s decodes from %s', (name, hex, value) => {
    expect(messageNamed(name).decode(Buffer.from(hex.replaceAll(' ', ''), 'hex'))).toEqual(value)
  })

  test.each(golden)('%s encodes to %s', (name, hex, value) => {
    const canonical = [...lenient].reduce((text, form) => text.replace(form, '12 00'), hex)
    expect(messageNamed(name).encode(value).toString('hex')).toBe(canonical.replaceAll(' ', ''))
  })

  test('every message and every field number occurs above', () => {
    const covered = new Set(golden.map(([name]) => name as string))
    const messages = Object.entries(control).filter(
      ([, value]) => 'kind' in value && value.kind === 'message',
    )
    expect(messages.map(([name]) => name).filter((name) => !covered.has(name))).toEqual([])
    for (const [name] of messages) {
      const seen = new Set(golden.filter(([sample]) => sample === name).flatMap(([, hex]) => numbersIn(hex)))
      const type = messageNamed(name as keyof typeof control)
      expect(type.entries.map((entry) => entry.number).filter((number) => !seen.has(number))).toEqual([])
    }
  })

  test('the service has the 19 methods at their paths', () => {
    expect(Object.values(control.controlService).map((method) => method.path)).toHaveLength(19)
    expect(control.controlService.ManifestPush.path).toBe('/isula.build.v1.Control/ManifestPush')
    expect(control.controlService.Status.responseStream).toBe(true)
    expect(control.controlService.Build.responseStream).toBe(false)
  })
})

// SaveRequest exists with two orders of its first three fields; Save takes both.
describe('a save request', () => {
  const id = '61 62 63 64 65 66 30 31 32 33 34 35'
  const saveID = 'abcdef012345'
  const none = { saveID, images: ['a', 'b'], path: '', format: '', sep: undefined }
  const sep = { base: 'b', lib: '', rename: '', dest: '/d', enabled: true }

  test.each([
    ['0.9.6', `0a 0c ${id} 12 01 61 12 01 62 1a 02 2f 70 22 03 6f 63 69`],
    ['earlier clients', `0a 01 61 0a 01 62 12 02 2f 70 1a 0c ${id} 22 03 6f 63 69`],
    ['earlier clients, fields in another order', `1a 0c ${id} 22 03 6f 63 69 12 02 2f 70 0a 01 61 0a 01 62`],
  ])('with a path decodes as %s encode it', (_order, hex) => {
    expect(decodeSave(hex)).toEqual({ ...none, path: '/p', format: 'oci' })
  })

  test.each([
    ['0.9.6', `0a 0c ${id} 12 01 61 12 01 62 2a 09 0a 01 62 22 02 2f 64 28 01`],
    ['earlier clients', `0a 01 61 0a 01 62 1a 0c ${id} 2a 09 0a 01 62 22 02 2f 64 28 01`],
  ])('without a path, of separated images, decodes as %s encode it', (_order, hex) => {
    expect(decodeSave(hex)).toEqual({ ...none, sep })
  })

  test.each([
    ['0.9.6', `0a 0c ${id} 12 01 61 1a 01 70`],
    ['earlier clients', `0a 01 61 12 01 70 1a 0c ${id}`],
  ])('with a relative path keeps it, as %s encode it', (_order, hex) => {
    expect(decodeSave(hex)).toEqual({ ...none, images: ['a'], path: 'p' })
  })

  test('without images has none', () => {
    expect(decodeSave(`0a 0c ${id} 1a 02 2f 70`)).toEqual({ ...none, images: [], path: '/p' })
    expect(decodeSave(`12 02 2f 70 1a 0c ${id}`)).toEqual({ ...none, images: [], path: '/p' })
    expect(decodeSave(`0a 0c ${id}`)).toEqual({ ...none, images: [] })
  })

  test('that names an image like a path still has its path', () => {
    const { images, path } = decodeSave(`0a 0c ${id} 12 02 2f 61 1a 02 2f 70`)
    expect({ images, path }).toEqual({ images: ['/a'], path: '/p' })
  })

  test('is read this way by the method', () => {
    expect(control.controlService.Save.requestDeserialize).toBe(control.decodeSaveRequest)
  })

  function decodeSave(hex: string): Decoded<typeof control.SaveRequest> {
    return control.decodeSaveRequest(Buffer.from(hex.replaceAll(' ', ''), 'hex'))
  }
})
