import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  createControlBench,
  entriesOf,
  invalidArgument,
  newId,
  notFound,
  ok,
  unimplemented,
} from '../support/control-bench.js'
import { number, part, text, textIn, textsIn } from '../support/proto-bytes.js'

// Images through `isula.build.v1.Control`, as a client of the original asks for them.

const bench = await createControlBench()
const { work, client, built, lines, list } = bench

afterAll(() => bench.stop())

describe('images', () => {
  let id = ''

  beforeAll(async () => {
    id = (await built({ content: 'FROM base:1\nCOPY file /kept\nLABEL a=b=c\n', tag: 'kept:1' })).id
  })

  test('are tagged, listed and removed in the words of the original', async () => {
    expect(
      await client.unary('Tag', Buffer.concat([text(1, 'kept:1'), text(2, 'other')])).ended,
    ).toMatchObject({
      code: ok,
      messages: [Buffer.alloc(0)],
    })
    expect((await list('other')).map((row) => [row.tag, row.id])).toEqual([['latest', id]])
    expect(await list('other:latest')).toHaveLength(1)
    expect((await list(id.slice(0, 12))).map(({ repository }) => repository).sort()).toEqual([
      'kept',
      'other',
    ])
    expect(await client.unary('List', text(1, 'absent:1')).ended).toMatchObject({
      code: notFound,
      details: 'find local image "absent:1" failed: image "absent:1" not found in local store',
    })
    expect((await client.unary('Tag', Buffer.concat([text(1, 'absent'), text(2, 'x')])).ended).code).toBe(
      notFound,
    )
    expect(await lines('Remove', text(1, ['other']))).toBe('Untagged image: other:latest')
    const removed = await built({ content: 'FROM base:1\nRUN echo gone > /gone\n', tag: 'gone:1' })
    const end = await client.stream('Remove', text(1, ['gone:1', 'absent'])).ended
    const shown = end.messages.map((message) => textIn(message, 1))
    expect(shown.slice(0, -2).every((line) => /^Deleted layer: sha256:[0-9a-f]{64}$/.test(line))).toBe(true)
    expect(shown.length).toBeGreaterThan(2)
    expect(shown.at(-2)).toBe('Deleted image: gone:1')
    expect(shown.at(-1)).toMatch(/^Find local image "absent" failed: /)
    expect(end).toMatchObject({ code: notFound, details: 'remove one or more images failed' })
    expect((await list()).map((row) => row.id)).not.toContain(removed.id)
  })

  test('without a name go with prune', async () => {
    const { id: nameless } = await built({ content: 'FROM base:1\nRUN echo n > /nameless\n' })
    expect((await list()).find((row) => row.id === nameless)).toMatchObject({
      repository: '<none>',
      tag: '<none>',
    })
    expect(await lines('Remove', number(3, true))).toContain(`Deleted image: ${nameless}`)
    expect((await list()).some(({ repository }) => repository === '<none>')).toBe(false)
  })

  // The first three fields of a save request have two orders (proto/isula_build/v1/control.proto).
  const saveRequest = {
    'since 0.9.4': (images: readonly string[], path: string, rest: readonly Buffer[]) =>
      Buffer.concat([text(1, newId()), text(2, images), text(3, path), ...rest]),
    'up to 0.9.3': (images: readonly string[], path: string, rest: readonly Buffer[]) =>
      Buffer.concat([text(1, images), text(2, path), text(3, newId()), ...rest]),
  }
  const orders = Object.keys(saveRequest) as (keyof typeof saveRequest)[]

  test.each(orders)('are saved and loaded again, as clients %s ask for it', async (order) => {
    const path = join(work, `saved-${newId()}.tar`)
    const log = await lines(
      'Save',
      saveRequest[order](['kept:1', 'base:1'], path, [text(4, 'docker'), part(5)]),
    )
    expect(log).toMatch(/^Getting image source signatures\nCopying blob sha256:/)
    expect(entriesOf(path).map(({ RepoTags }) => RepoTags)).toEqual([['kept:1'], ['base:1']])
    await lines('Remove', text(1, ['kept:1']))
    const loaded = await lines('Load', Buffer.concat([text(1, path), text(2, newId()), part(3)]))
    expect(loaded).toContain(`Loaded image as ${id}\n`)
    expect((await list('kept:1')).map((row) => row.id)).toEqual([id])
    const oci = join(work, `saved-${newId()}.tar`)
    await lines('Save', saveRequest[order](['kept:1'], oci, [text(4, 'oci'), part(5)]))
    expect(await lines('Load', text(1, oci))).toContain(`Loaded image as ${id}\n`)
    const end = await client.stream('Save', saveRequest[order](['kept:1'], oci, [part(5)])).ended
    expect(end.details).toContain('output file already exist')
  })

  test.each(orders)('are saved in parts and loaded again, as clients %s ask for it', async (order) => {
    const directory = join(work, `parts-${newId()}`)
    const sep = part(5, text(1, 'base:1'), text(4, directory), number(5, true))
    await lines('Save', saveRequest[order](['kept:1'], '', [text(4, 'docker'), sep]))
    const files = ['kept_1_app_image.tar.gz', 'kept_1_base_image.tar.gz', 'manifest']
    expect(readdirSync(directory).sort()).toEqual(files)
    await lines('Remove', text(1, ['kept:1']))
    const parts = part(3, text(1, 'kept:1'), text(2, directory), number(6, true))
    expect(await lines('Load', Buffer.concat([text(2, newId()), parts]))).toContain(`Loaded image as ${id}\n`)
    expect((await list('kept:1')).map((row) => row.id)).toEqual([id])
  })

  test('need a path that is absolute', async () => {
    for (const order of orders) {
      const end = await client.stream('Save', saveRequest[order](['kept:1'], 'here.tar', [])).ended
      expect(end).toMatchObject({ code: invalidArgument, details: expect.stringContaining('"here.tar"') })
    }
  })
})

test.each([
  ['unary', 'ManifestCreate'],
  ['unary', 'ManifestAnnotate'],
  ['unary', 'ManifestInspect'],
  ['stream', 'ManifestPush'],
] as const)('%s %s needs a daemon with experimental features', async (kind, method) => {
  const { code, details } = await client[kind](method, text(1, 'x')).ended
  expect(code).toBe(unimplemented)
  expect(details).toMatch(/^please enable experimental to use manifest feature/)
})

test.each([
  ['unary', 'Login', text(1, '../x')],
  ['unary', 'Logout', text(1, 'a/b')],
  ['stream', 'Push', text(2, 'UPPER')],
  ['stream', 'Pull', text(2, 'a b')],
] as const)('%s %s of what is no name is refused', async (kind, method, message) => {
  const { code, details } = await client[kind](method, message).ended
  expect([invalidArgument, notFound], details).toContain(code)
  expect(details).not.toBe('')
})

test('bytes that are no message are refused, and the daemon goes on', async () => {
  for (const bytes of [Buffer.from([0x0a, 0x7f]), Buffer.alloc(64, 0xff), Buffer.from([0x0a, 1, 0xff])]) {
    const { code, details } = await client.unary('List', bytes).ended
    expect([invalidArgument, 13]).toContain(code)
    expect(details).not.toBe('')
  }
  expect(textsIn((await client.unary('Version').ended).messages[0] ?? Buffer.alloc(0), 1)).toHaveLength(1)
})
