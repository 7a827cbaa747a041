import { getuid } from 'node:process'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createImageResolver } from '../../packages/builder-daemon/src/core/build/image-resolver.js'
import type { PullPolicy } from '../../packages/builder-daemon/src/core/transfer/policy.js'
import { pullImage } from '../../packages/builder-daemon/src/core/transfer/pull.js'
import type { TransferServices } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import type { ImageResolver, ResolvedImage } from '../../packages/builder-daemon/src/ports/image-resolver.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { plainRules, type SourceImage } from '../support/source-registry.js'
import { openTransferBench, type TransferBench } from '../support/transfer-bench.js'

const name = 'r.test/base:1'
const amd = { os: 'linux', architecture: 'amd64' }
const arm = { os: 'linux', architecture: 'arm64' }
const never = new AbortController().signal

let bench: TransferBench
beforeEach(async () => {
  bench = await openTransferBench()
})
afterEach(() => bench[Symbol.asyncDispose]())

function image(label: string, rest: Partial<SourceImage> = {}): SourceImage {
  return { layers: [{ tar: rawTar({ name: 'f', content: label }) }], label, ...rest }
}

/** One build's. */
function resolver(policy: PullPolicy, rest: Partial<TransferServices> = {}): ImageResolver {
  return createImageResolver(policy, { ...bench.services, ...rest }, bench.call())
}

function resolve(policy: PullPolicy, text = name, platform?: string): Promise<ResolvedImage> {
  return resolver(policy).resolve(text, platform, never)
}

const labelOf = ({ config }: ResolvedImage): string | undefined => config.config?.Labels?.['label']
const requests = (): readonly string[] => bench.registry.requests.splice(0)

async function failureOf(work: Promise<unknown>): Promise<BuilderError> {
  try {
    await work
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
  throw new Error('it did not fail')
}

const offline = (): void => {
  bench.registry.fault = () => {
    throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', 'no route to host')
  }
}

describe.skipIf(getuid?.() !== 0)('under the policy (needs root)', () => {
  test('missing, what is not here is pulled with its name, and what is here is not asked for', async () => {
    bench.registry.add(name, image('one'))
    expect(labelOf(await resolve('missing'))).toBe('one')
    expect((await bench.store.images.get(name))?.names).toEqual([name])
    requests()
    bench.registry.add(name, image('two'))
    expect(labelOf(await resolve('missing'))).toBe('one')
    expect(requests()).toEqual([])
  })

  test('newer, one HEAD tells whether to pull; without an answer the local one is used with a word', async () => {
    bench.registry.add(name, image('one'))
    await resolve('newer')
    requests()
    await resolve('newer')
    expect(requests()).toEqual(['head r.test/base 1'])
    bench.registry.add(name, image('two'))
    expect(labelOf(await resolve('newer'))).toBe('two')
    expect(await bench.store.images.get(name)).toMatchObject({ names: [name] })
    offline()
    expect(labelOf(await resolve('newer'))).toBe('two')
    expect(bench.lines.at(-1)).toMatch(/^\[Warning\] Using the local r\.test\/base:1, .*no route to host$/)
  })

  test('newer, what the registry does not have stays as it is', async () => {
    bench.registry.add('r.test/other:1', image('one'))
    const pulled = await resolve('missing', 'r.test/other:1')
    await bench.store.images.tag(pulled.id, 'r.test/mine:1')
    const before = bench.lines.length
    expect((await resolve('newer', 'r.test/mine:1')).id).toBe(pulled.id)
    expect(bench.lines.slice(before)).toEqual([])
  })

  test('always, the registry decides, also when it does not answer', async () => {
    bench.registry.add(name, image('one'))
    await resolve('always')
    bench.registry.add(name, image('two'))
    expect(labelOf(await resolve('always'))).toBe('two')
    offline()
    expect(await failureOf(resolve('always'))).toMatchObject({ code: 'ISB_REGISTRY_UNAVAILABLE' })
  })

  test('never, nobody is asked', async () => {
    bench.registry.add(name, image('one'))
    expect(await failureOf(resolve('never'))).toMatchObject({
      code: 'ISB_IMAGE_NOT_FOUND',
      message: `image "${name}" not found in local store`,
    })
    expect(requests()).toEqual([])
  })

  test('always or newer, what was built under localhost/ and IDs are local all the same', async () => {
    bench.registry.add(name, image('one'))
    const { id } = await resolve('missing')
    await bench.store.images.tag(id, 'localhost/built:latest')
    requests()
    for (const policy of ['always', 'newer'] as const) {
      for (const text of ['localhost/built', 'built', id, id.slice(0, 12), `sha256:${id}`]) {
        expect((await resolve(policy, text)).id).toBe(id)
      }
    }
    expect(requests()).toEqual([])
  })
})

describe.skipIf(getuid?.() !== 0)('a name (needs root)', () => {
  test('without a registry is looked for here under each of its meanings before any is asked', async () => {
    bench.registry.add('q.test/tool:latest', image('q'))
    const rules = plainRules({ search: ['docker.io', 'q.test'] })
    const pulled = await resolver('missing').resolve('q.test/tool', undefined, never)
    requests()
    const found = await resolver('missing', { rules }).resolve('tool', undefined, never)
    expect([found.id, requests()]).toEqual([pulled.id, []])
    const { id } = await resolver('missing', { rules }).resolve('tool', undefined, never)
    await bench.store.images.tag(id, 'tool:latest')
    bench.registry.add('r.test/x:1', image('x'))
    const other = await resolve('missing', 'r.test/x:1')
    await bench.store.images.tag(other.id, 'localhost/tool:latest')
    // The name itself comes before localhost/.
    expect((await resolver('missing', { rules }).resolve('tool', undefined, never)).id).toBe(id)
  })

  test('with a digest is that content, here or there, whatever the tag says', async () => {
    const one = bench.registry.add(name, image('one'))
    await resolve('missing')
    const two = bench.registry.add(name, image('two'))
    requests()
    expect(labelOf(await resolve('always', `r.test/base@${one.digest}`))).toBe('one')
    expect(labelOf(await resolve('missing', `r.test/base:1@${one.digest}`))).toBe('one')
    expect(requests()).toEqual([])
    expect(labelOf(await resolve('missing', `r.test/base:1@${two.digest}`))).toBe('two')
    expect(requests()[0]).toBe(`manifest r.test/base ${two.digest}`)
    expect((await bench.store.images.get(name))?.config.config?.Labels?.['label']).toBe('one')
    const error = await failureOf(resolve('never', `r.test/base:1@${digestOf('other')}`))
    expect(error.code).toBe('ISB_IMAGE_NOT_FOUND')
  })

  test('is looked up once per build, however often it is used', async () => {
    bench.registry.add(name, image('one'))
    const own = resolver('always')
    const all = await Promise.all([1, 2, 3].map(() => own.resolve(name, undefined, never)))
    bench.registry.add(name, image('two'))
    expect([...all, await own.resolve(name, undefined, never)].map(labelOf)).toEqual([
      ...['one', 'one', 'one', 'one'],
    ])
  })

  test('of docker:// is one at a registry, of an archive it is none', async () => {
    bench.registry.add(name, image('one'))
    expect(labelOf(await resolve('missing', `docker://${name}`))).toBe('one')
    for (const text of ['docker-archive:/tmp/x.tar', 'oci-archive:x.tar:a', 'oci:/a/b', 'dir:./x']) {
      expect(await failureOf(resolve('missing', text))).toMatchObject({ code: 'ISB_REFERENCE_INVALID' })
    }
    const error = await failureOf(resolve('missing', 'docker-archive:/tmp/x.tar'))
    expect(error.hint).toMatch(/ctr-img load/)
  })

  test('that is nowhere says where it was looked for', async () => {
    expect((await failureOf(resolve('missing', 'nothing'))).message).toMatch(
      /^failed to get the image in \[localhost\/nothing:latest docker\.io\/library\/nothing:latest\]: /,
    )
  })
})

describe.skipIf(getuid?.() !== 0)('for a platform (needs root)', () => {
  function list(version: string): void {
    const both = [amd, arm].map((platform) =>
      bench.registry.add(
        `r.test/base:${platform.architecture}`,
        image(`${version} ${platform.architecture}`, { platform }),
      ),
    )
    bench.registry.addIndex(name, both)
  }

  test('another one is pulled beside the local image, which keeps the name', async () => {
    list('v1')
    await resolve('missing')
    expect(labelOf(await resolve('missing', name, 'linux/arm64'))).toBe('v1 arm64')
    expect((await bench.store.images.get(name))?.config.architecture).toBe('amd64')
    // Both came from the same list, so nobody has to be asked any more.
    requests()
    offline()
    expect(labelOf(await resolve('missing', name, 'linux/arm64'))).toBe('v1 arm64')
    expect(requests()).toEqual([])
  })

  test('all platforms of one build come from the same list, though the tag moves', async () => {
    list('v1')
    const own = resolver('always')
    bench.registry.fault = (request) => {
      if (request.startsWith('blob')) list('v2')
    }
    const both = await Promise.all(
      ['linux/amd64', 'linux/arm64'].map((platform) => own.resolve(name, platform, never)),
    )
    expect(both.map(labelOf)).toEqual(['v1 amd64', 'v1 arm64'])
  })

  test('a local image for another one, that no registry knows, is the original error', async () => {
    bench.registry.add(name, image('arm only', { platform: arm }))
    const { images } = await pullImage(
      name,
      { platforms: [], names: 'reference' },
      bench.services,
      bench.call(),
    )
    await bench.store.images.tag(images[0]?.record.id ?? '', 'r.test/local:1')
    const expected = {
      code: 'ISB_PLATFORM_UNSUPPORTED',
      message: 'image "r.test/local:1": the architecture does not match, have "arm64" want "amd64"',
    }
    expect(await failureOf(resolve('missing', 'r.test/local:1'))).toMatchObject(expected)
    expect(await failureOf(resolve('never', 'r.test/local:1'))).toMatchObject(expected)
    expect(await failureOf(resolve('missing', images[0]?.record.id))).toMatchObject({
      code: 'ISB_PLATFORM_UNSUPPORTED',
    })
  })
})

test.skipIf(getuid?.() !== 0)(
  'a damaged base is healed by pulling it again, else it is the error',
  async () => {
    bench.registry.add(name, image('one'))
    const { id, layers } = await resolve('missing')
    const [layer] = layers
    if (layer === undefined) throw new Error('one layer')
    await bench.store.layers.reportDamage(layer)
    offline()
    expect((await failureOf(resolve('missing'))).code).toBe('ISB_IMAGE_DAMAGED')
    expect((await failureOf(resolve('never'))).code).toBe('ISB_IMAGE_DAMAGED')
    bench.registry.fault = () => undefined
    const healed = await resolve('missing')
    expect(healed.id).toBe(id)
    expect((await bench.store.images.get(name))?.damaged).toBe(false)
  },
)

test.skipIf(getuid?.() !== 0)('a cancelled build stops looking', async () => {
  bench.registry.add(name, image('one'))
  const stop = new AbortController()
  bench.registry.fault = () => stop.abort()
  const own = resolver('missing')
  expect((await failureOf(own.resolve(name, undefined, stop.signal))).code).toBe('ISB_CANCELLED')
})
