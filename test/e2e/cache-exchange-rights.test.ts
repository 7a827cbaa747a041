import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { createRightsBench, type TestUser } from '../support/rights-bench.js'

const dockerfile = 'FROM base:1\nCOPY file /file\nRUN cat /file > /copy\n'

test.skipIf(getuid?.() !== 0)('caches in directories are read and written as the caller', async () => {
  await using rights = await createRightsBench()
  const { alice, bob, guarded } = rights
  await rights.bench.image('import', rights.bench.baseTar, 'base:1')
  const context = (user: TestUser) => rights.context(user, dockerfile, { file: 'the same for all\n' })
  const own = join(alice.home, 'cache')
  const to = ['--cache-to', `type=local,dest=${own},mode=max`]
  await rights.accepted(alice, 'ctr-img', 'build', ...to, context(alice))
  for (const name of readdirSync(own, { recursive: true, encoding: 'utf8' })) {
    expect(lstatSync(join(own, name)).uid, name).toBe(alice.uid)
  }
  // What anybody may read serves anybody who names it, though the cache of the daemon is apart.
  const from = ['--explain=json', '--cache-from', `type=local,src=${own}`]
  chmodSync(alice.home, 0o755)
  const statuses = async (...args: readonly string[]): Promise<readonly string[]> => {
    const output = await rights.accepted(bob, 'ctr-img', 'build', ...args, context(bob))
    return JSON.parse(output).steps.map(({ status }: { readonly status: string }) => status)
  }
  expect(await statuses(...from)).toEqual(['miss', 'hit', 'hit'])
  // Hers alone, it is as if it was not there.
  chmodSync(own, 0o700)
  expect(await statuses(...from)).toEqual(['miss', 'miss', 'miss'])
  // A place where he may write nothing.
  for (const place of [join(own, 'below'), join(guarded.directory, 'cache'), join(guarded.open, 'cache')]) {
    await rights.refused(
      bob,
      /ermission denied/,
      ...['ctr-img', 'build', '--cache-to', `type=local,dest=${place}`, context(bob)],
    )
    expect(existsSync(place)).toBe(false)
  }
  // Of a directory that is there already, too.
  const closed = join(alice.home, 'closed')
  mkdirSync(closed)
  await rights.refused(
    bob,
    /ermission denied/,
    ...['ctr-img', 'build', '--cache-to', `type=local,dest=${closed}`, context(bob)],
  )
  expect(readdirSync(closed)).toEqual([])
  await rights.expectUnharmed()
})

test.skipIf(getuid?.() !== 0)('a document gives nobody a layer of the cache of another user', async () => {
  await using rights = await createRightsBench()
  const { alice, bob } = rights
  await rights.bench.image('import', rights.bench.baseTar, 'base:1')
  // The layer is in no image, only in her cache.
  const stages =
    'FROM base:1 AS one\nRUN head -c 99 /dev/urandom > /hers\nFROM base:1\nCOPY --from=one /bin /b\n'
  const hers = join(alice.home, 'cache')
  const to = ['--cache-to', `type=local,dest=${hers},mode=max`]
  await rights.accepted(alice, 'ctr-img', 'build', ...to, rights.context(alice, stages))
  const place = join(bob.home, 'cache')
  execFileSync('cp', ['-r', hers, place])
  execFileSync('chown', ['-R', `${bob.uid}:${bob.gid}`, place])
  const blobs = join(place, 'blobs/sha256')
  const isLayer = (name: string): boolean => readFileSync(join(blobs, name))[0] === 0x1f
  const kept = join(bob.home, 'layers')
  mkdirSync(kept)
  for (const name of readdirSync(blobs).filter(isLayer)) execFileSync('mv', [join(blobs, name), kept])
  const build = async (): Promise<readonly string[]> => {
    const from = ['--explain=json', '--target', 'one', '--cache-from', `type=local,src=${place}`]
    const output = await rights.accepted(bob, 'ctr-img', 'build', ...from, rights.context(bob, stages))
    const { steps } = JSON.parse(output) as { readonly steps: readonly { readonly status: string }[] }
    return steps.map(({ status }) => status).filter((status) => status !== 'skipped')
  }
  // He knows its diff ID, and has not its content.
  expect(await build()).toEqual(['miss', 'miss'])
  for (const name of readdirSync(kept)) execFileSync('mv', [join(kept, name), blobs])
  expect(await build()).toEqual(['miss', 'hit'])
  await rights.expectUnharmed()
})

test.skipIf(getuid?.() !== 0)(
  'builds that write into one directory at once leave a whole cache',
  async () => {
    await using rights = await createRightsBench()
    const { alice } = rights
    await rights.bench.image('import', rights.bench.baseTar, 'base:1')
    const directory = join(alice.home, 'cache')
    const to = ['--cache-to', `type=local,dest=${directory},mode=max`]
    const random = 'FROM base:1\nCOPY file /file\nRUN head -c 3000000 /dev/urandom > /big\n'
    const contexts = ['one', 'two', 'three'].map((file) => rights.context(alice, random, { file }, file))
    for (let round = 0; round < 2; round++) {
      rmSync(directory, { recursive: true, force: true })
      await Promise.all(
        contexts.map((context) => rights.accepted(alice, 'ctr-img', 'build', '--no-cache', ...to, context)),
      )
      const blobs = join(directory, 'blobs/sha256')
      const whole = new Set(readdirSync(blobs).map((name) => `sha256:${name}`))
      for (const digest of whole) expect(digestOf(readFileSync(join(blobs, digest.slice(7))))).toBe(digest)
      const { manifests } = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8'))
      expect(manifests).toHaveLength(1)
      const manifest = JSON.parse(readFileSync(join(blobs, manifests[0].digest.slice(7)), 'utf8'))
      for (const { digest } of [manifests[0], manifest.config, ...manifest.layers]) {
        expect(whole).toContain(digest)
      }
      expect(readdirSync(directory).sort()).toEqual(['blobs', 'index.json', 'oci-layout'])
    }
    await rights.expectUnharmed()
  },
)
