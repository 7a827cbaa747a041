import { expect, test } from 'vitest'
import type { LayerWorkers } from '../../ports/layer-worker.js'
import { createImageUsers } from './image-users.js'

const signal = new AbortController().signal

/** Workers that answer with the user's number, and fail for `nobody`. */
function fakeWorkers(asked: string[]): LayerWorkers {
  const run = async (_job: string, { lowers, user }: { lowers: readonly string[]; user: string }) => {
    asked.push(`${user} of ${lowers.join(':')}`)
    if (user === 'nobody') throw new Error('no user "nobody"')
    return { uid: Number(user), gid: 0, additionalGids: [0], home: '/' }
  }
  return { size: 1, run } as unknown as LayerWorkers
}

test('the same layers are asked for the same user once', async () => {
  const asked: string[] = []
  const users = createImageUsers(fakeWorkers(asked))
  for (const user of ['1', '2', '1', '2']) {
    expect(await users.resolve({ lowers: ['/a'], user }, signal)).toMatchObject({ uid: Number(user) })
  }
  await users.resolve({ lowers: ['/b', '/a'], user: '1' }, signal)
  expect(asked).toEqual(['1 of /a', '2 of /a', '1 of /b:/a'])
})

test('a failure is not remembered', async () => {
  const asked: string[] = []
  const users = createImageUsers(fakeWorkers(asked))
  for (const _ of [1, 2]) {
    await expect(users.resolve({ lowers: ['/a'], user: 'nobody' }, signal)).rejects.toThrow('nobody')
  }
  expect(asked).toHaveLength(2)
})

test('who was not asked for longest is forgotten first', async () => {
  const asked: string[] = []
  const users = createImageUsers(fakeWorkers(asked), 2)
  for (const user of ['1', '2', '1', '3', '1', '2']) await users.resolve({ lowers: ['/a'], user }, signal)
  expect(asked.map((line) => line[0])).toEqual(['1', '2', '3', '2'])
})
