import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

const bundle = new URL('../../dist/client/main.cjs', import.meta.url).pathname
/** Each takes a start milliseconds, or belongs to one that does. */
const costly = ['child_process', 'crypto', 'http', 'http2', 'https', 'tls', 'worker_threads', 'zlib']

/** Which of them a client loads that is called with these words. */
function loadedBy(words: readonly string[]): readonly string[] {
  const list = join(bench.work, 'loaded')
  const watcher = join(bench.work, 'watcher.cjs')
  writeFileSync(
    watcher,
    `process.on('exit', () => require('node:fs').writeFileSync(${JSON.stringify(list)}, process.moduleLoadList.join('\\n')))`,
  )
  const { status, stderr } = spawnSync(process.execPath, ['-r', watcher, bundle, ...words], {
    encoding: 'utf8',
    env: { ISULABUILD_HOST: bench.daemon.host },
  })
  expect([stderr, status]).toEqual(['', 0])
  const loaded = new Set(readFileSync(list, 'utf8').split('\n'))
  return costly.filter((name) => loaded.has(`NativeModule ${name}`))
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

test('what it has a use for it loads', () => {
  const context = bench.context({ Dockerfile: 'FROM base:1\n' })
  expect(loadedBy(['ctr-img', 'build', '--iidfile', join(context, 'iid'), context])).toEqual(['crypto'])
})
