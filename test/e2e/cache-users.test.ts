import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { expect, test } from 'vitest'
import { createRightsBench, type RightsBench, type TestUser } from '../support/rights-bench.js'
import { readStore } from '../support/store-inspection.js'

/** What one user's builds made serves nobody else, unless an administrator wants it to. */

const isRoot = getuid?.() === 0

const dockerfile = `FROM base:1 AS confidential
RUN --mount=type=secret,id=key cat /run/secrets/key > /token
FROM base:1
COPY file /file
RUN --mount=target=/context cat /context/file > /copy
WORKDIR /work
COPY --from=confidential /token /token
RUN cat /token > /again
`
const own = [4, 5, 6]
const confidential = [2, 7, 8]

async function open(configuration: string): Promise<RightsBench> {
  const rights = await createRightsBench(configuration)
  await rights.bench.image('import', rights.bench.baseTar, 'base:1')
  return rights
}

/** The same project in the home of every user; gives the steps that were executed, and the reasons. */
async function build(
  rights: RightsBench,
  user: TestUser,
  secret: string,
  ...args: readonly string[]
): Promise<{ readonly executed: readonly number[]; readonly reasons: ReadonlySet<string> }> {
  const context = rights.context(user, dockerfile, { file: 'the same for all\n' })
  const key = join(context, 'key')
  writeFileSync(key, secret)
  writeFileSync(join(context, '.dockerignore'), 'key\n')
  const output = await rights.accepted(
    user,
    ...['ctr-img', 'build', '--explain=json', '--secret', `id=key,src=${key}`, ...args, context],
  )
  const steps: readonly { step: number; status: string; reason: { kind: string } | null }[] =
    JSON.parse(output).steps
  const missed = steps.filter(({ step, status }) => status === 'miss' && step !== 1 && step !== 3)
  return {
    executed: missed.map(({ step }) => step),
    reasons: new Set(missed.map(({ reason }) => reason?.kind ?? '')),
  }
}

function layersOf(rights: RightsBench, uid: number): ReadonlySet<string> {
  const rows = readStore<{ layer: string }>(
    rights.bench.data,
    `SELECT layer_id AS layer FROM image_layers JOIN images ON id = image_id
     WHERE owner = ${uid} AND position > 0`,
  )
  return new Set(rows.map(({ layer }) => layer))
}

test.skipIf(!isRoot)('a user finds in the cache what he made, and nothing of anybody else', async () => {
  await using rights = await open('')
  const { alice, bob } = rights
  const everything = [...confidential, ...own].sort()
  expect(await build(rights, alice, 'hers')).toEqual({
    ...{ executed: everything, reasons: new Set(['never-built']) },
  })
  expect((await build(rights, alice, 'hers')).executed).toEqual([])
  // The same files, Dockerfile and even secret: to him it is all new, and he is not told that it is to be had.
  expect(await build(rights, bob, 'hers')).toEqual({
    ...{ executed: everything, reasons: new Set(['never-built']) },
  })
  expect((await build(rights, bob, 'hers')).executed).toEqual([])
  const hers = layersOf(rights, alice.uid)
  expect(hers.size).toBeGreaterThan(0)
  expect([...layersOf(rights, bob.uid)].filter((layer) => hers.has(layer))).toEqual([])
  // Another value of the secret is another build, his own or not.
  expect((await build(rights, bob, 'his')).executed).toEqual(confidential)
  await rights.expectUnharmed()
})

test.skipIf(!isRoot)('where the cache is shared it is not for what a secret had a part in', async () => {
  await using rights = await open('[cache]\nshared = true')
  const { alice, bob } = rights
  await build(rights, alice, 'hers')
  expect((await build(rights, bob, 'hers')).executed).toEqual(confidential)
  expect((await build(rights, bob, 'hers')).executed).toEqual([])
  const hers = layersOf(rights, alice.uid)
  const shared = [...layersOf(rights, bob.uid)].filter((layer) => hers.has(layer))
  expect(shared).toHaveLength(own.length)
  // What he had from her is his as well: hers may go.
  expect((await build(rights, alice, 'hers', '--no-cache')).executed).toEqual(
    [...confidential, ...own].sort(),
  )
  expect((await build(rights, bob, 'hers')).executed).toEqual([])
  await rights.expectUnharmed()
})
