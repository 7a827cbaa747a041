import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const scripts = join(dirname(dirname(fileURLToPath(import.meta.url))), 'scripts/start')
let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'code-cache-'))
  chmodSync(root, 0o755)
  copyFileSync(join(scripts, 'entry.cjs'), join(root, 'main.cjs'))
  for (const part of ['code-cache.cjs', 'lazy-modules.cjs'])
    copyFileSync(join(scripts, part), join(root, part))
  writeBundle('one')
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const files = ['code-cache.cjs', 'lazy-modules.cjs', 'main.cache', 'main.cjs', 'main.js']
const cache = (): string => join(root, 'main.cache')

/** Bundles of different words are equally long, which is all that V8 compares. */
function writeBundle(word: string): void {
  const text = `'use strict'
function greet(name) { return '${word} ' + name }
console.log(greet(process.argv.slice(2).join(' ')), require('node:path').basename(__filename), module.exports === exports)
if (process.argv[2] === 'fail') throw new Error('from within')
`
  const digest = createHash('sha256').update(text).digest('hex')
  const parameters = 'exports, require, module, __filename, __dirname'
  writeFileSync(join(root, 'main.js'), `// ${digest}\n(function (${parameters}) {${text}\n})`)
}

interface Outcome {
  readonly status: number | null
  readonly output: string
}

function run(args: readonly string[] = [], options: { uid?: number; flags?: readonly string[] } = {}) {
  const { uid, flags = [] } = options
  const child = spawn(process.execPath, [...flags, join(root, 'main.cjs'), 'you', ...args], {
    ...(uid === undefined ? {} : { uid, gid: uid }),
    env: {},
    cwd: '/',
  })
  return outcome(child)
}

function outcome(child: ReturnType<typeof spawn>): Promise<Outcome> {
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (text) => (output += text))
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, output })))
}

const greeting = (word: string): Outcome => ({ status: 0, output: `${word} you main.js true\n` })

/** What the next start makes of the cache that is there. */
async function isUsed(): Promise<boolean> {
  const script = `console.log(require('./code-cache.cjs').loadBundle('./main').isCached)`
  const { output } = await outcome(spawn(process.execPath, ['-e', script], { cwd: root, env: {} }))
  return output === 'true\n'
}

test('the first start makes the cache, readable by all, and the next one uses it', async () => {
  const umask = process.umask(0o077)
  try {
    expect(await run()).toEqual(greeting('one'))
  } finally {
    process.umask(umask)
  }
  expect(statSync(cache()).mode & 0o777).toBe(0o644)
  expect(await isUsed()).toBe(true)
  const { ino } = statSync(cache())
  expect(await run()).toEqual(greeting('one'))
  expect(statSync(cache()).ino).toBe(ino)
})

test('another bundle of the same length is not taken for the old one', async () => {
  await run()
  writeBundle('two')
  expect(await isUsed()).toBe(false)
  expect(await run()).toEqual(greeting('two'))
  expect(await isUsed()).toBe(true)
})

test('another Node.js compiles again and leaves its own', async () => {
  await run()
  const bytes = readFileSync(cache())
  const other = bytes.toString('latin1').replace(process.version, process.version.replace('v2', 'v3'))
  writeFileSync(cache(), other, 'latin1')
  expect(await isUsed()).toBe(false)
  expect(await run()).toEqual(greeting('one'))
  expect(await isUsed()).toBe(true)
})

test('what V8 refuses, as with other flags, is compiled again', async () => {
  await run()
  expect(await run([], { flags: ['--max-lazy', '--no-opt'] })).toEqual(greeting('one'))
  expect(await run()).toEqual(greeting('one'))
  expect(await isUsed()).toBe(true)
})

describe('a damaged cache does no harm', () => {
  const damages: readonly (readonly [string, (bytes: Buffer) => Buffer])[] = [
    ['that is empty', () => Buffer.alloc(0)],
    ['cut short', (bytes) => bytes.subarray(0, bytes.length - 1)],
    ['cut in half', (bytes) => bytes.subarray(0, bytes.length >> 1)],
    ['that ends with its head', (bytes) => bytes.subarray(0, bytes.indexOf(0x0a) + 1)],
    ['of zeros', (bytes) => Buffer.alloc(bytes.length)],
    ['whose end is zeros', (bytes) => Buffer.from(bytes).fill(0, Math.floor(bytes.length * 0.75))],
    ['that is longer', (bytes) => Buffer.concat([bytes, Buffer.alloc(2)])],
    ...[0.1, 0.3, 0.45, 0.55, 0.8, 0.99].map(
      (part) =>
        [
          `with a wrong byte at ${Math.round(part * 100)} %`,
          (bytes: Buffer) => {
            const wrong = Buffer.from(bytes)
            const at = Math.floor(part * bytes.length)
            wrong[at] = (wrong[at] ?? 0) ^ 0x55
            return wrong
          },
        ] as const,
    ),
  ]
  test.each(damages)('one %s', async (_, damage) => {
    await run()
    writeFileSync(cache(), damage(readFileSync(cache())))
    expect(await isUsed()).toBe(false)
    expect(await run()).toEqual(greeting('one'))
    expect(await isUsed()).toBe(true)
  })

  test('a directory in its place', async () => {
    mkdirSync(cache())
    expect(await run()).toEqual(greeting('one'))
    expect(readdirSync(root).sort()).toEqual(files)
  })
})

test.runIf(process.getuid?.() === 0)(
  'a user who cannot write beside the program runs it all the same',
  async () => {
    expect(await run([], { uid: 65_534 })).toEqual(greeting('one'))
    expect(readdirSync(root)).not.toContain('main.cache')
    await run()
    expect(await run([], { uid: 65_534 })).toEqual(greeting('one'))
  },
)

test.runIf(process.getuid?.() === 0)('a user who cannot read the cache runs it all the same', async () => {
  await run()
  chmodSync(cache(), 0o600)
  expect(await run([], { uid: 65_534 })).toEqual(greeting('one'))
})

test('an error tells where it comes from, with the cache and without', async () => {
  for (let round = 0; round < 2; round++) {
    const child = spawn(process.execPath, [join(root, 'main.cjs'), 'fail'], { env: {} })
    const { status, output } = await outcome(child)
    expect(status).toBe(1)
    expect(output).toContain(`${root}/main.js:5`)
    expect(output).toContain('Error: from within')
  }
})

test('many first starts at once leave one cache', async () => {
  const outcomes = await Promise.all(Array.from({ length: 12 }, () => run()))
  expect(outcomes).toEqual(outcomes.map(() => greeting('one')))
  expect(readdirSync(root).sort()).toEqual(files)
  expect(await isUsed()).toBe(true)
})
