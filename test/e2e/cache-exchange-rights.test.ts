import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { expect, test } from 'vitest'
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
