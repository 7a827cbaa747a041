import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { loadIntoIsulad } from './isulad.js'

let root: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'isulad-engine-'))
})
afterEach(() => {
  // Whatever happened, no archive stays.
  if (existsSync(join(root, 'tmp'))) expect(readdirSync(join(root, 'tmp'))).toEqual([])
  rmSync(root, { recursive: true, force: true })
})

function program(script: string): string {
  const path = join(root, 'isula')
  writeFileSync(path, `#!/bin/sh\n${script}\n`)
  chmodSync(path, 0o755)
  return path
}

function load(script: string, options: { timeLimit?: number; signal?: AbortSignal } = {}): Promise<void> {
  const engine = {
    program: program(script),
    temporary: join(root, 'tmp'),
    timeLimit: options.timeLimit ?? 10_000,
  }
  const write = async (fd: number): Promise<void> => void writeSync(fd, 'archive')
  return loadIntoIsulad(engine, 'build1', write, options.signal ?? new AbortController().signal)
}

test('isula gets the path of what was written', async () => {
  await load(`echo "$1 $2 $3 $#" > ${root}/argv; cat "$3" > ${root}/got; env > ${root}/env`)
  const [, , path = ''] = readFileSync(join(root, 'argv'), 'utf8').split(' ')
  expect(readFileSync(join(root, 'argv'), 'utf8')).toBe(`load -i ${path} 3\n`)
  expect(path).toMatch(new RegExp(`^${root}/tmp/build1/isula-build-tmp-[0-9a-f]{12}\\.tar$`))
  expect(readFileSync(join(root, 'got'), 'utf8')).toBe('archive')
  expect(readFileSync(join(root, 'env'), 'utf8')).not.toContain('VITEST')
})

test('what it says is in the error, without control characters', async () => {
  await expect(load(`printf 'no\\033[2J\\nspace' >&2; exit 3`)).rejects.toMatchObject({
    code: 'ISB_ENGINE_FAILED',
    message: 'isula load ended with 3: no [2J space',
  })
  await expect(load('kill -9 $$')).rejects.toThrow('isula load ended with SIGKILL: it said nothing')
})

test('one that does not end is ended with what it started', async () => {
  const began = performance.now()
  await expect(load(`sleep 61 & echo $! > ${root}/pid; sleep 60`, { timeLimit: 300 })).rejects.toThrow(
    'isula load took longer than 0.3 seconds',
  )
  expect(performance.now() - began).toBeLessThan(10_000)
  const pid = Number(readFileSync(join(root, 'pid'), 'utf8'))
  for (let tries = 0; isRunning(pid) && tries < 100; tries++) await sleep(20)
  expect(isRunning(pid)).toBe(false)
})

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

test('a cancelled build ends it', async () => {
  const cancel = new AbortController()
  const loading = load(`echo > ${root}/began; sleep 60`, { signal: cancel.signal })
  while (!existsSync(join(root, 'began'))) await sleep(10)
  cancel.abort()
  await expect(loading).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
})

test('an archive that fails to be written is not loaded', async () => {
  const engine = { program: program(`echo > ${root}/called`), temporary: join(root, 'tmp'), timeLimit: 1000 }
  const failing = loadIntoIsulad(
    engine,
    'b',
    () => Promise.reject(new Error('damaged')),
    new AbortController().signal,
  )
  await expect(failing).rejects.toThrow('damaged')
  expect(existsSync(join(root, 'called'))).toBe(false)
})

test('without isula that is said', async () => {
  const engine = {
    program: [join(root, 'a'), join(root, 'b')],
    temporary: join(root, 'tmp'),
    timeLimit: 1000,
  }
  const loading = loadIntoIsulad(engine, 'b', async () => undefined, new AbortController().signal)
  await expect(loading).rejects.toMatchObject({
    code: 'ISB_ENGINE_FAILED',
    details: { hint: `It is looked for at ${root}/a/isula, ${root}/b/isula.` },
  })
})
