import { type DiffId, digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { describe, expect, test } from 'vitest'
import { fakeResolver, planLines } from '../plan/plan-fixture.js'
import { assembleConfig, formatTime } from './assemble.js'

const created = new Date('2020-05-23T10:55:33Z')
const layer = (name: string) => ({ diffId: digestOf(name) as DiffId })

async function assemble(lines: readonly string[], layers?: readonly ({ diffId: DiffId } | null)[]) {
  const { target } = await planLines(lines)
  const given = layers ?? target.history.map(({ vertex }) => (vertex === undefined ? null : layer(vertex)))
  return assembleConfig({ planned: target, base: target.base?.config ?? null, layers: given, created })
}

describe('assembleConfig', () => {
  test('has the base first, one history entry per layer, and the time everywhere', async () => {
    const { config } = await assemble(['FROM busybox', 'ENV A=1', 'RUN true', 'WORKDIR /w'])
    expect(config.rootfs.diff_ids).toEqual([
      digestOf('layer of busybox'),
      layer('0.3').diffId,
      layer('0.4').diffId,
    ])
    expect(config.created).toBe('2020-05-23T10:55:33Z')
    expect(config.history?.map((entry) => [entry.created_by, entry.empty_layer, entry.created])).toEqual([
      ['layer of busybox', undefined, undefined],
      ['ENV A=1', true, '2020-05-23T10:55:33Z'],
      ['RUN /bin/sh -c true # buildkit', undefined, '2020-05-23T10:55:33Z'],
      ['WORKDIR /w', undefined, '2020-05-23T10:55:33Z'],
    ])
    expect(JSON.stringify(config.history)).not.toContain('vertex')
  })

  test('a step that made no layer has an empty entry', async () => {
    const { config } = await assemble(['FROM scratch', 'WORKDIR /w', 'COPY a /'], [null, layer('copy')])
    expect(config.history?.map((entry) => entry.empty_layer ?? false)).toEqual([true, false])
    expect(config.rootfs.diff_ids).toEqual([layer('copy').diffId])
  })

  test('the same image has the same bytes, whatever order its maps were filled in', async () => {
    const first = await assemble(['FROM scratch', 'LABEL b=1 a=2', 'EXPOSE 2 1'])
    const second = await assemble(['FROM scratch', 'LABEL a=2 b=1', 'EXPOSE 1 2'])
    const { history: _, ...one } = JSON.parse(Buffer.from(first.bytes).toString())
    const { history: __, ...two } = JSON.parse(Buffer.from(second.bytes).toString())
    expect(JSON.stringify(one)).toBe(JSON.stringify(two))
    expect(first.id).toBe(digestHex(digestOf(first.bytes)))
  })

  test('keys stand in the order of the contract', async () => {
    const { bytes } = await assemble(['FROM busybox', 'MAINTAINER me', 'USER u'])
    const text = Buffer.from(bytes).toString()
    expect(Object.keys(JSON.parse(text))).toEqual([
      'created',
      'author',
      'architecture',
      'os',
      'config',
      'rootfs',
      'history',
    ])
    expect(text).toContain('"config":{"User":"u","Env":["PATH=')
  })

  test('a base whose history does not add up gets one that does', async () => {
    const { target } = await planLines(['FROM busybox', 'RUN true'])
    const base = target.base?.config
    if (base === undefined) throw new Error('no base')
    for (const history of [[], [{ empty_layer: true }], [{}, {}]]) {
      const { config } = assembleConfig({
        planned: target,
        base: { ...base, history },
        layers: [layer('a')],
        created: undefined,
      })
      expect(config.history?.filter((entry) => entry.empty_layer !== true)).toHaveLength(2)
    }
  })

  test('labels of any name survive', async () => {
    const { bytes } = await assemble(['FROM scratch', 'LABEL __proto__=a constructor=b 10=c 9=d'])
    expect(Object.entries(JSON.parse(Buffer.from(bytes).toString()).config.Labels).sort()).toEqual([
      ['10', 'c'],
      ['9', 'd'],
      ['__proto__', 'a'],
      ['constructor', 'b'],
    ])
  })

  test('a config beyond 4 MiB is refused', async () => {
    const { target } = await planLines(
      ['FROM scratch'],
      { labels: { big: 'x'.repeat(5 << 20) } },
      fakeResolver(),
    )
    expect(() => assembleConfig({ planned: target, base: null, layers: [], created })).toThrow(
      expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED' }),
    )
  })

  test('layers and history that differ in number are a bug', async () => {
    const { target } = await planLines(['FROM scratch', 'ENV A=1'])
    expect(() => assembleConfig({ planned: target, base: null, layers: [], created })).toThrow(
      '0 layers for 1',
    )
  })
})

test.each([
  [0, '1970-01-01T00:00:00Z'],
  [1590231333120, '2020-05-23T10:55:33.12Z'],
  [1590231300000, '2020-05-23T10:55:00Z'],
  [1590231333001, '2020-05-23T10:55:33.001Z'],
])('%d ms is %s', (time, text) => {
  expect(formatTime(new Date(time))).toBe(text)
})
