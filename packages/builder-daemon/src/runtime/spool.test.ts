import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { followSpool } from './spool.js'

let directory: string
let path: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-build-spool-'))
  path = join(directory, 'spool')
  writeFileSync(path, '')
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

async function read(finished: AbortSignal, options = {}): Promise<string> {
  const chunks: Uint8Array[] = []
  for await (const chunk of followSpool(path, finished, options)) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

test('everything written before the end arrives, also what is written right before it', async () => {
  for (let round = 0; round < 50; round += 1) {
    writeFileSync(path, '')
    const finished = new AbortController()
    const reading = read(finished.signal)
    appendFileSync(path, 'a')
    if (round % 2 === 0) await sleep(round % 7)
    appendFileSync(path, 'b')
    finished.abort()
    expect(await reading).toBe('ab')
  }
})

test('followers that come late or start further on read the same', async () => {
  appendFileSync(path, '0123456789')
  expect(await read(AbortSignal.abort())).toBe('0123456789')
  expect(await read(AbortSignal.abort(), { from: 7 })).toBe('789')
})

test('a write wakes a sleeping follower', async () => {
  const finished = new AbortController()
  const chunks = followSpool(path, finished.signal)
  const first = chunks.next()
  await sleep(50)
  const written = performance.now()
  appendFileSync(path, 'x')
  expect(Buffer.from((await first).value ?? []).toString()).toBe('x')
  expect(performance.now() - written).toBeLessThan(500)
  await chunks.return()
})

test('a follower that is cancelled ends although nothing is written', async () => {
  const cancel = new AbortController()
  const reading = read(new AbortController().signal, { cancel: cancel.signal })
  await sleep(20)
  cancel.abort()
  expect(await reading).toBe('')
})

test('a spool that does not exist is an error', async () => {
  rmSync(path)
  await expect(read(AbortSignal.abort())).rejects.toMatchObject({ code: 'ENOENT' })
})
