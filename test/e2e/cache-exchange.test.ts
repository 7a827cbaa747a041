import { cpSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { type ClientBench, createClientBench, readDockerArchive } from '../support/client-bench.js'
import { startDockerRegistry } from '../support/registry-bench.js'

interface Explanation {
  readonly steps: readonly { readonly step: number; readonly status: 'hit' | 'miss' | 'skipped' }[]
}

const dockerfile = `FROM base:1 AS build
ARG VERSION=1
WORKDIR /src
COPY src/ ./
RUN cat main.c > /out && date +%s%N >> /out && head -c 9 /dev/urandom >> /out
RUN --mount=target=/context cat /context/config > /copy
FROM base:1
LABEL kind=test
COPY config /etc/config
COPY --from=build /out /out
RUN --mount=from=build,target=/build cat /build/out > /again && rm /etc/config
CMD ["cat", "/out"]
`
/** Steps that make or change files; the FROMs are new to a daemon whose project it is not. */
const work = [3, 4, 5, 6, 9, 10, 11]

describe.skipIf(getuid?.() !== 0)('daemons share a cache', () => {
  let first: ClientBench
  let second: ClientBench
  let registry: Awaited<ReturnType<typeof startDockerRegistry>>
  let caches = 0
  let cache: string
  beforeAll(async () => {
    registry = await startDockerRegistry()
    first = await createClientBench()
    second = await createClientBench()
    second.ok(['import', first.baseTar, 'base:1'])
  })
  afterAll(async () => {
    await first?.[Symbol.asyncDispose]()
    await second?.[Symbol.asyncDispose]()
    await registry?.[Symbol.asyncDispose]()
  })
  beforeEach(async () => {
    cache = `${registry.endpoint.host}/caches/c${++caches}:v`
    for (const bench of [first, second]) {
      for (const name of ['a:1', 'b:1']) bench.run(['rm', name])
      await bench.prune()
    }
  })

  const files = {
    Dockerfile: dockerfile,
    'src/main.c': 'main\n',
    'src/other.c': 'other\n',
    config: 'config\n',
  }

  /** Gives the steps with work that were executed. */
  function build(bench: ClientBench, context: string, ...args: readonly string[]): readonly number[] {
    const output = bench.ok(['build', '--explain=json', '--tls-verify=false', ...args, context])
    const { steps }: Explanation = JSON.parse(output)
    const missed = steps.filter(({ status }) => status !== 'hit').map(({ step }) => step)
    return work.filter((step) => missed.includes(step))
  }

  function configOf(bench: ClientBench, image: string) {
    const archive = join(bench.work, `${image.replace(':', '-')}-${caches}.tar`)
    rmSync(archive, { force: true })
    bench.ok(['save', '-o', archive, image])
    const { config, rootfs } = readDockerArchive(archive).config()
    return { config, rootfs }
  }

  test('mode=max gives another daemon all steps, and the same image', () => {
    const [mine, theirs] = [first.context(files), second.context(files)]
    expect(build(first, mine, '-t', 'a:1', '--cache-to', `type=registry,ref=${cache},mode=max`)).toEqual(work)
    expect(build(second, theirs, '-t', 'b:1', '--cache-from', cache)).toEqual([])
    expect(configOf(second, 'b:1')).toEqual(configOf(first, 'a:1'))
    // Only who names it has it.
    expect(build(second, theirs, '-t', 'c:1')).toEqual(work)
    expect(configOf(second, 'c:1')).not.toEqual(configOf(first, 'a:1'))
    second.ok(['rm', 'c:1'])
  })

  test('mode=min gives the steps of the image, and what it was made from is made again', () => {
    const context = first.context(files)
    build(first, context, '-t', 'a:1', '--cache-to', `type=registry,ref=${cache}`)
    const executed = build(second, second.context(files), '-t', 'b:1', '--cache-from', cache)
    // The other stage is random, so what was taken of it is something else.
    expect(executed).toEqual([3, 4, 5, 6, 10, 11])
  })

  test('what changed is executed, and what stands on it', () => {
    build(first, first.context(files), '--cache-to', `type=registry,ref=${cache},mode=max,compression=zstd`)
    const changed = second.context({ ...files, 'src/main.c': 'changed\n' })
    expect(build(second, changed, '--cache-from', cache)).toEqual([4, 5, 6, 10, 11])
  })

  test('imported results are handed on', () => {
    const other = `${registry.endpoint.host}/caches/other${caches}:v`
    build(first, first.context(files), '--cache-to', `type=registry,ref=${cache},mode=max`)
    const again = second.context(files)
    const to = `type=registry,ref=${other},mode=max`
    expect(build(second, again, '--cache-from', cache, '--cache-to', to)).toEqual([])
    expect(
      build(second, again, '--cache-from', `${registry.endpoint.host}/caches/none:v`, '--cache-from', other),
    ).toEqual([])
  })

  test('a cache that is not there is no failure, nor is one that is none', () => {
    // A cache is waited for by the first step that this daemon has nothing for.
    const other = (): string => second.context({ ...files, 'src/main.c': `${Math.random()}\n` })
    const nowhere = `${registry.endpoint.host}/caches/nothing:v`
    const { status, stdout } = second.run(['build', '--tls-verify=false', '--cache-from', nowhere, other()])
    expect([status, stdout]).toEqual([0, expect.stringContaining(`No build cache is at ${nowhere} yet`)])
    const image = `${registry.endpoint.host}/caches/image:v`
    second.ok(['push', '--tls-verify=false', 'base:1', image])
    const built = second.run(['build', '--tls-verify=false', '--cache-from', image, other()])
    expect([built.status, built.stdout + built.stderr]).toEqual([
      0,
      expect.stringContaining('is no build cache'),
    ])
  })

  test('a cache that cannot be written fails the build, unless that is to be ignored', () => {
    const context = first.context(files)
    const to = 'type=registry,ref=127.0.0.1:1/cache:v'
    const args = ['build', '--tls-verify=false', '--retry=0', '-t', 'a:1', '--cache-to']
    const failed = first.run([...args, to, context])
    expect(failed.status).not.toBe(0)
    expect(failed.stderr).toContain('the build cache could not be written to 127.0.0.1:1/cache:v')
    const ignored = first.run([...args, `${to},ignore-error=true`, context])
    expect([ignored.status, ignored.stdout + ignored.stderr]).toEqual([
      0,
      expect.stringContaining('the build cache could not be written'),
    ])
  })

  test('a directory carries it, too, and is added to', () => {
    const directory = join(first.work, `cache-${caches}`)
    const context = first.context(files)
    build(first, context, '-t', 'a:1', '--cache-to', `type=local,dest=${directory},mode=max`)
    expect(
      build(second, second.context(files), '-t', 'b:1', '--cache-from', `type=local,src=${directory}`),
    ).toEqual([])
    expect(configOf(second, 'b:1')).toEqual(configOf(first, 'a:1'))
    const blobs = join(directory, 'blobs/sha256')
    const before = readdirSync(blobs).length
    // One that an interrupted build left is written again.
    const [some = ''] = readdirSync(blobs).filter((name) => statSync(join(blobs, name)).size > 1000)
    writeFileSync(join(blobs, some), 'cut')
    const index = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8'))
    index.manifests.unshift({ mediaType: 'x', digest: `sha256:${'0'.repeat(64)}`, size: 1, other: true })
    writeFileSync(join(directory, 'index.json'), JSON.stringify(index))
    build(first, context, '--cache-to', `type=local,dest=${directory},mode=max`)
    expect(readdirSync(blobs)).toHaveLength(before)
    expect(statSync(join(blobs, some)).size).toBeGreaterThan(1000)
    const { manifests } = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8'))
    expect(manifests).toEqual(index.manifests)
    // An interrupted build may have left this, too.
    writeFileSync(join(directory, 'index.json'), '')
    build(second, second.context(files), '--cache-from', `type=local,src=${directory}`)
    build(first, context, '--cache-to', `type=local,dest=${directory},mode=max`)
    expect(JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8')).manifests).toHaveLength(1)
  })

  test('a layer that is not what its name says is made again', () => {
    const directory = join(first.work, `cache-${caches}`)
    build(first, first.context(files), '--cache-to', `type=local,dest=${directory},mode=max`)
    const blobs = join(directory, 'blobs/sha256')
    const context = second.context(files)
    const swapped = join(first.work, `swapped-${caches}`)
    cpSync(directory, swapped, { recursive: true })
    for (const name of readdirSync(blobs)) {
      const path = join(swapped, 'blobs/sha256', name)
      const bytes = readFileSync(path)
      if (bytes[0] === 0x1f) writeFileSync(path, Buffer.concat([bytes.subarray(0, -9), Buffer.alloc(9)]))
    }
    const { status, stdout, stderr } = second.run([
      ...['build', '--tls-verify=false', '-t', 'b:1'],
      ...['--cache-from', `type=local,src=${swapped}`, context],
    ])
    expect([status, stdout + stderr]).toEqual([0, expect.stringContaining('cannot be used')])
    expect(second.file('b:1', '/again')).toMatch(/^main\n/)
  })

  test('records that lie mislead the build that names them, and no other one', async () => {
    const directory = join(first.work, `cache-${caches}`)
    build(first, first.context(files), '--cache-to', `type=local,dest=${directory},mode=max`)
    poison(directory)
    const target = ['--target', 'build', '-t', 'b:1']
    const context = second.context(files)
    expect(build(second, context, ...target, '--cache-from', `type=local,src=${directory}`)).toEqual([])
    expect(second.file('b:1', '/etc/config')).toBe('config\n')
    expect(() => second.file('b:1', '/copy')).toThrow('/image/copy')
    expect(build(second, context, ...target)).toEqual([3, 4, 5, 6])
    expect(second.file('b:1', '/copy')).toBe('config\n')
    expect(() => second.file('b:1', '/etc/config')).toThrow('/image/etc/config')
  })

  test('what a secret had a part in is not in it', () => {
    const directory = join(first.work, `cache-${caches}`)
    const key = join(first.work, 'key')
    writeFileSync(key, 'very secret')
    const confidential = {
      Dockerfile: `FROM base:1
RUN echo plain > /plain
RUN --mount=type=secret,id=key cat /run/secrets/key > /token
RUN cat /token > /again
`,
    }
    const args = ['build', '--explain=json', '--secret', `id=key,src=${key}`]
    first.ok([...args, '--cache-to', `type=local,dest=${directory},mode=max`, first.context(confidential)])
    const context = second.context(confidential)
    const { steps }: Explanation = JSON.parse(
      second.ok([...args, '--cache-from', `type=local,src=${directory}`, context]),
    )
    expect(steps.map(({ status }) => status).slice(1)).toEqual(['hit', 'miss', 'miss'])
    // A manifest, a document and one layer.
    expect(readdirSync(join(directory, 'blobs/sha256'))).toHaveLength(3)
  })

  /** The RUN that makes /copy gives what COPY of the config gave. */
  function poison(directory: string): void {
    const path = (digest: string): string => join(directory, 'blobs/sha256', digest.slice(7))
    const read = (digest: string) => JSON.parse(readFileSync(path(digest), 'utf8'))
    const write = (value: unknown) => {
      const bytes = Buffer.from(JSON.stringify(value))
      const digest = digestOf(bytes)
      writeFileSync(path(digest), bytes)
      return { digest, size: bytes.length }
    }
    const index = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8'))
    const manifest = read(index.manifests[0].digest)
    const document = read(manifest.config.digest)
    // In the order of the Dockerfile: four of the stage, then those of the image.
    expect(document.steps).toHaveLength(work.length)
    document.steps[3].layer = document.steps[4].layer
    Object.assign(manifest.config, write(document))
    Object.assign(index.manifests[0], write(manifest))
    writeFileSync(join(directory, 'index.json'), JSON.stringify(index))
  }
})
