import { getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CacheRounds, createCacheRounds } from '../support/cache-rounds.js'

/** `ISULA_ROUNDS=1000` plays that many, `ISULA_ROUNDS_SEED` begins with another project. */
const total = Number(process.env['ISULA_ROUNDS'] ?? '20')
const first = Number(process.env['ISULA_ROUNDS_SEED'] ?? '20261121')
const roundsOfOne = 10
const seeds = Array.from({ length: Math.ceil(total / roundsOfOne) }, (_, i) => first + i)

describe.skipIf(getuid?.() !== 0)('a project edited at random gives with cache what it gives without', () => {
  let rounds: CacheRounds
  beforeAll(async () => {
    rounds = await createCacheRounds()
  })
  afterAll(() => rounds[Symbol.asyncDispose]())

  test.each(seeds)('seed %i', async (seed) => {
    const result = await rounds.play(seed, roundsOfOne)
    expect(result.compared).toBeGreaterThan(0)
  })

  test('and the store is sound after it', async () => {
    await rounds.cached.expectSound()
  })
})
