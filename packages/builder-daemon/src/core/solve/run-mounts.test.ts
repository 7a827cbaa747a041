import { beforeEach, expect, test } from 'vitest'
import { silentLogger } from '../../../../../test/support/silent-logger.js'
import type { StoredRecord } from '../../ports/cache-index.js'
import type { CacheMounts } from '../../ports/cache-mounts.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { RunMount, RunVertex, VertexId } from '../plan/plan.js'
import { digestKeys } from './cache-key.js'
import type { BuildEnvironment, Snapshot } from './environment.js'
import { needsClient, prepareMounts, readMounts } from './run-mounts.js'
import { createSharedExecutions } from './shared-executions.js'
import { createSharedLease } from './shared-lease.js'

const signal = new AbortController().signal
const id = (name: string): VertexId => name as VertexId
/** What the ports were asked, in order. */
let asked: string[] = []
/** Those of the caches that were asked for. */
let variants: string[] = []
let fresh = true
let failing: string | undefined

const ask = (line: string): void => {
  asked.push(line)
  if (line === failing) throw new Error(`no ${line}`)
}

const cacheMounts: CacheMounts = {
  async acquire(uid, requests) {
    variants.push(...requests.map(({ variant }) => variant))
    if (requests.length > 0)
      ask(`acquire ${uid} ${requests.map(({ id: name, sharing }) => `${name} ${sharing}`).join(', ')}`)
    const byId = new Map(
      requests.map(({ id: name }) => [
        name,
        { path: `/cache/${name}`, fresh, seeded: () => ask(`seeded ${name}`) },
      ]),
    )
    return {
      mounts: requests.flatMap(({ id: name }) => byId.get(name) ?? []),
      [Symbol.asyncDispose]: async () => {
        if (requests.length > 0) ask('release')
      },
    }
  },
}

let staged = 0
let recorded: readonly StoredRecord[] = []
const base: Snapshot = {
  ...{
    key: 'key of base',
    layers: ['l1', 'l2'] as unknown as LayerId[],
    own: null,
    tainted: false,
    imported: false,
  },
}
const results = new Map<VertexId, Snapshot>([[id('base'), base]])

/** Ports of which only what mounts need is there. */
function environment(): BuildEnvironment {
  const layers = {
    stage: async () => {
      staged++
      if (failing === `stage ${staged}`) ask(failing)
      return { id: 's', root: `/staging/${staged}`, upper: `/staging/${staged}/upper`, work: '' }
    },
    abandon: async ({ root }: { root: string }) => ask(`abandon ${root}`),
    publish: async () => ({ id: 'published' }),
    hold: async (ids: readonly string[]) => ids.map((held) => ({ id: held })),
    directory: (layer: string) => `/layers/${layer}`,
    shortLink: (layer: string) => `l/${layer}`,
  }
  const workers = {
    async run(job: string, { inputs }: { inputs: readonly { pattern: string }[] }) {
      ask(`${job} ${inputs[0]?.pattern}`)
      return { contentKey: 'content', diffId: 'sha256:0', tarSize: 0 }
    },
  }
  const cache = { lookup: async () => recorded, store: async () => ask('record') }
  return {
    ports: { layers, workers, cache, cacheMounts },
    contexts: {
      get: async () => ({
        ...{ root: { access: 'direct', fd: 3 }, ignore: [], ignoreFile: undefined, identity: '1:2' },
      }),
    },
    ...{ uid: 1000, lease: { id: 'lease' }, noCache: false, noCacheStages: new Set(), sealed: new Set() },
    states: { note: () => undefined },
    retainLease: createSharedLease({ id: 'lease' }, async () => undefined).retain,
    executions: { contextLayers: createSharedExecutions(silentLogger) },
    secrets: new Map([['token', Buffer.from('hunter2')]]),
    secretDigest: () => 'digest of the secret',
    ssh: { open: async (name: string) => (name === 'default' ? '/run/agents/1' : undefined) },
  } as unknown as BuildEnvironment
}

function run(...mounts: readonly RunMount[]): RunVertex {
  return {
    ...{ kind: 'run', id: id('run'), step: 2, scripts: [{ path: '/dev/pipes/1', content: '#!/bin/sh\n' }] },
    mounts,
    source: { file: 'Dockerfile', start: { line: 2, column: 1 }, end: { line: 2, column: 9 } },
  } as unknown as RunVertex
}

const owner = { mode: 0o755, uid: 0, gid: 0 }
const cacheOf = (cacheId: string, more: Partial<Extract<RunMount, { type: 'cache' }>> = {}): RunMount => ({
  ...{ type: 'cache', target: `/t/${cacheId}`, cacheId, from: undefined, source: '' as never },
  ...{ readOnly: false, sharing: 'shared', ...owner, ...more },
})
const secretOf = (more: Partial<Extract<RunMount, { type: 'secret' }>>): RunMount => ({
  ...{ type: 'secret', id: 'token', target: '/run/secrets/token', env: undefined, required: false },
  ...{ mode: 0o400, uid: 0, gid: 0, ...more },
})

function recordOf(contentKey: string, layer: string | null): StoredRecord {
  return {
    ...{ id: 1, foreign: false, usable: true, evictedAt: undefined, shape: '', contentKey },
    ...{ origin: { parent: [], inputs: [] }, state: undefined, inputsKey: undefined, tainted: false },
    layer: layer as LayerId | null,
  }
}

async function prepare(...mounts: readonly RunMount[]) {
  const of = { environment: environment(), vertex: run(...mounts), results, signal }
  const read = await readMounts(of)
  const prepared = await prepareMounts(of, read)
  return { ...prepared, ...read }
}

beforeEach(() => {
  asked = []
  variants = []
  fresh = true
  failing = undefined
  staged = 0
  recorded = []
})

test('scripts of here-documents are executable files of root', async () => {
  const { mounts, env, contentKey } = await prepare()
  expect(mounts).toEqual([
    {
      type: 'file',
      target: '/dev/pipes/1',
      content: Buffer.from('#!/bin/sh\n'),
      mode: 0o755,
      uid: 0,
      gid: 0,
    },
  ])
  expect([env, contentKey]).toEqual([[], ''])
})

test('caches are locked at once, and given back', async () => {
  const prepared = await prepare(cacheOf('b', { sharing: 'locked' }), cacheOf('a', { readOnly: true }))
  expect(asked).toEqual(['acquire 1000 b locked, a shared', 'seeded b', 'seeded a'])
  expect(prepared.mounts.slice(0, 2)).toEqual([
    { type: 'bind', source: '/cache/b', target: '/t/b', readOnly: false },
    { type: 'bind', source: '/cache/a', target: '/t/a', readOnly: true },
  ])
  expect(prepared.contentKey).toBe('')
  await prepared[Symbol.asyncDispose]()
  expect(asked.slice(3)).toEqual(['release'])
})

test('a cache mounted twice is seeded once', async () => {
  const prepared = await prepare(
    cacheOf('a', { sharing: 'locked' }),
    cacheOf('a', { sharing: 'locked', target: '/u' }),
  )
  expect(asked).toEqual(['acquire 1000 a locked, a locked', 'seeded a'])
  expect(prepared.mounts.slice(0, 2)).toMatchObject([
    { source: '/cache/a', target: '/t/a' },
    { source: '/cache/a', target: '/u' },
  ])
})

test('only a fresh cache is filled, before it counts as seeded', async () => {
  const from = { kind: 'vertex', vertex: id('base') } as const
  await prepare(cacheOf('a', { from, source: '/seed' as never }))
  expect(asked).toEqual(['acquire 1000 a shared', 'copy /seed', 'seeded a'])
  asked = []
  fresh = false
  await prepare(cacheOf('a', { from, source: '/seed' as never }))
  expect(asked).toEqual(['acquire 1000 a shared'])
})

test('a cache that could not be filled is given back without counting as seeded', async () => {
  failing = 'copy /seed'
  const from = { kind: 'vertex', vertex: id('base') } as const
  await expect(prepare(cacheOf('a', { from, source: '/seed' as never }))).rejects.toThrow('no copy /seed')
  expect(asked).toEqual(['acquire 1000 a shared', 'copy /seed', 'release'])
})

test('a directory of a context that is bound twice is copied once', async () => {
  const from = { kind: 'context', context: '' } as const
  const bind = { type: 'bind', from, readWrite: false } as const
  const prepared = await prepare(
    { ...bind, target: '/a', source: 'src' as never },
    { ...bind, target: '/b', source: 'src' as never },
    { ...bind, target: '/c', source: 'other' as never },
  )
  expect(asked.filter((what) => what.startsWith('copy'))).toEqual(['copy src', 'copy other'])
  expect([...prepared.contextLayers.values()]).toHaveLength(3)
})

test('a cache of another owner, mode or beginning is another cache', async () => {
  const from = { kind: 'vertex', vertex: id('base') } as const
  const nothing = { kind: 'vertex', vertex: null } as const
  const caches = [
    {},
    { mode: 0o700 },
    { uid: 5 },
    { gid: 5 },
    { from },
    { from: nothing },
    { from, source: '/seed' as never },
    { from, uid: 5 },
  ]
  await prepare(...caches.map((more) => cacheOf('a', more)))
  expect(variants[0]).toBe('')
  expect(new Set(variants).size).toBe(caches.length)
  const [, ...others] = variants.splice(0)
  await prepare(...caches.slice(1).map((more) => cacheOf('b', { sharing: 'locked', ...more })))
  expect(variants).toEqual(others)
})

test('a bind of a stage shows its layers with a throw-away upper', async () => {
  const bind = { type: 'bind', target: '/src', source: '/sub' as never, readWrite: true } as const
  const prepared = await prepare({ ...bind, from: { kind: 'vertex', vertex: id('base') } })
  expect(prepared.mounts[0]).toEqual({
    ...{ type: 'overlay', lowers: ['l/l1', 'l/l2'], subpath: '/sub', target: '/src', readOnly: false },
    scratch: '/staging/1',
  })
  expect([prepared.contentKey, prepared.inputs]).toEqual(['', [base]])
  await prepared[Symbol.asyncDispose]()
  expect(asked).toEqual(['abandon /staging/1'])
  expect(await prepared.inputsKey?.([base.layers])).toMatch(/^[0-9a-f]{64}$/)
  expect(asked.slice(1)).toEqual(['digestSources /sub'])
})

test('a bind of the context is a layer whose content is in the key', async () => {
  const bind = { type: 'bind', target: '/src', source: '/sub' as never, readWrite: false } as const
  const prepared = await prepare({ ...bind, from: { kind: 'context', context: '' } })
  expect(prepared.mounts[0]).toMatchObject({ type: 'overlay', lowers: ['l/published'], readOnly: true })
  expect([prepared.contentKey, prepared.inputs]).toEqual([digestKeys(['content']), []])
  expect(asked).toEqual(['copy /sub', 'record'])
  asked = []
  recorded = [recordOf('content', 'held')]
  const again = await prepare({ ...bind, from: { kind: 'context', context: '' } })
  expect(again.mounts[0]).toMatchObject({ lowers: ['l/held'] })
  expect(asked).toEqual(['digestSources /sub', 'abandon /staging/3'])
})

test('a secret is a file or a variable, and its key tells nothing', async () => {
  const { mounts, env, contentKey } = await prepare(
    secretOf({}),
    secretOf({ target: undefined, env: 'TOKEN' }),
  )
  expect(mounts[0]).toEqual({
    ...{ type: 'file', target: '/run/secrets/token', mode: 0o400, uid: 0, gid: 0 },
    content: Buffer.from('hunter2'),
  })
  expect(mounts).toHaveLength(2)
  expect(env).toEqual(['TOKEN=hunter2'])
  expect(contentKey).toBe(digestKeys(['digest of the secret', 'digest of the secret']))
})

test('what was not given is left out, or asked for with the flag that gives it', async () => {
  const ssh = { type: 'ssh', id: 'deploy', target: undefined, required: false, ...owner } as const
  const { mounts, env, contentKey } = await prepare(secretOf({ id: 'other' }), ssh)
  expect([mounts.length, env, contentKey]).toEqual([1, [], digestKeys([''])])
  await expect(prepare(secretOf({ id: 'other', required: true }))).rejects.toMatchObject({
    code: 'ISB_ARGUMENT_INVALID',
    message: 'secret "other" is required but was not given',
    hint: 'Add `--secret id=other,src=FILE`.',
  })
  await expect(prepare({ ...ssh, required: true })).rejects.toMatchObject({ hint: 'Add `--ssh deploy`.' })
})

test('an agent is where its variable says', async () => {
  const ssh = { type: 'ssh', id: 'default', required: true, ...owner } as const
  const { mounts, env } = await prepare(
    { type: 'tmpfs', target: '/tmp', size: 4096 },
    { ...ssh, target: undefined },
    { ...ssh, target: '/agent' },
  )
  expect(mounts.slice(0, 3)).toMatchObject([
    { type: 'tmpfs', target: '/tmp', size: 4096 },
    { type: 'bind', source: '/run/agents/1', target: '/run/buildkit/ssh_agent.1', readOnly: false },
    { target: '/agent' },
  ])
  expect(env).toEqual(['SSH_AUTH_SOCK=/run/buildkit/ssh_agent.1', 'SSH_AUTH_SOCK=/agent'])
})

test('a context that cannot be read locks nothing', async () => {
  failing = 'digestSources /sub'
  const bind = { type: 'bind', target: '/src', source: '/sub' as never, readWrite: false } as const
  recorded = [recordOf('other', null)]
  const failed = prepare(cacheOf('a'), { ...bind, from: { kind: 'context', context: '' } })
  await expect(failed).rejects.toThrow('no digestSources /sub')
  expect(asked.slice(1)).toEqual(['abandon /staging/1'])
})

test('a mount that fails gives back what the ones before it took', async () => {
  const bind = { type: 'bind', target: '/src', source: '/sub' as never, readWrite: false } as const
  const from = { kind: 'vertex', vertex: id('base') } as const
  failing = 'stage 2'
  await expect(prepare(cacheOf('a'), { ...bind, from }, { ...bind, from })).rejects.toThrow('no stage 2')
  expect(asked.slice(3).sort()).toEqual(['abandon /staging/1', 'release'])
})

test('an agent that is missing is told before anything is locked', async () => {
  const ssh = { type: 'ssh', id: 'deploy', target: undefined, required: true, ...owner } as const
  await expect(prepare(cacheOf('a'), ssh)).rejects.toMatchObject({ code: 'ISB_ARGUMENT_INVALID' })
  expect(asked).toEqual([])
})

test('agents, and contexts that fill caches, are what mounts want of the client', () => {
  const context = { kind: 'context', context: '' } as const
  const bind = { type: 'bind', target: '/src', source: '/sub' as never, readWrite: false } as const
  const ssh = { type: 'ssh', id: 'default', target: undefined, required: false, ...owner } as const
  expect(needsClient(run({ ...bind, from: context }, secretOf({}), cacheOf('a')))).toBe(false)
  expect(needsClient(run(cacheOf('a', { from: { kind: 'vertex', vertex: null } })))).toBe(false)
  expect(needsClient(run(cacheOf('a', { from: context })))).toBe(true)
  expect(needsClient(run(ssh))).toBe(true)
})
