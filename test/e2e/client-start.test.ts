import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

const program = new URL('../../bin/isula-build', import.meta.url).pathname
/** Each takes a start milliseconds, or belongs to one that does; the streams only where output is no file or pipe. */
const streams = ['net', 'stream', 'tty']
const costly = ['child_process', 'crypto', 'http', 'http2', 'https', 'tls', 'worker_threads', 'zlib']

/** Which of `wanted` a client loads that is called with these words. */
function loadedBy(words: readonly string[], wanted = costly, output: 'pipe' | number = 'pipe') {
  const list = join(bench.work, 'loaded')
  const watcher = join(bench.work, 'watcher.cjs')
  writeFileSync(
    watcher,
    `process.on('exit', () => require('node:fs').writeFileSync(${JSON.stringify(list)}, process.moduleLoadList.join('\\n')))`,
  )
  const { status, stderr } = spawnSync(process.execPath, ['-r', watcher, program, ...words], {
    encoding: 'utf8',
    env: { ISULABUILD_HOST: bench.daemon.host },
    stdio: ['ignore', output, 'pipe'],
  })
  expect([stderr, status]).toEqual(['', 0])
  const loaded = new Set(readFileSync(list, 'utf8').split('\n'))
  return wanted.filter((name) => loaded.has(`NativeModule ${name}`))
}

test('a client loads no module of Node.js that it has no use for', () => {
  const context = bench.context({ Dockerfile: 'FROM base:1\nCOPY Dockerfile /\n' })
  expect(loadedBy(['ctr-img', 'build', '-t', 'small:1', context])).toEqual([])
  for (const words of [
    ['version'],
    ['info'],
    ['ctr-img', 'images'],
    ['ctr-img', 'tag', 'small:1', 'small:2'],
  ]) {
    expect(loadedBy(words)).toEqual([])
  }
})

test('a client that writes to a file loads no streams', () => {
  const context = bench.context({ Dockerfile: 'FROM base:1\nRUN echo said\n' })
  const file = join(bench.work, 'output')
  const descriptor = openSync(file, 'w')
  try {
    expect(
      loadedBy(['ctr-img', 'build', '--no-cache', context], [...streams, ...costly], descriptor),
    ).toEqual([])
  } finally {
    closeSync(descriptor)
  }
  expect(readFileSync(file, 'utf8')).toMatch(/\nsaid\n(.*\n)*Build success/)
})

test('what it has a use for it loads', () => {
  const context = bench.context({ Dockerfile: 'FROM base:1\n' })
  expect(loadedBy(['ctr-img', 'build', '--iidfile', join(context, 'iid'), context])).toEqual(['crypto'])
})
