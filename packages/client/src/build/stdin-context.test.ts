import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dockerfileLimit } from './build-inputs.js'
import { readStdinContext } from './stdin-context.js'

let root: string
let source: string
const long = `${'n'.repeat(90)}/${'m'.repeat(60)}/Dockerfile`

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-stdin-'))
  source = join(root, 'source')
  mkdirSync(dirname(join(source, long)), { recursive: true })
  mkdirSync(join(source, 'Dockerfile.d'))
  writeFileSync(join(source, 'before'), Buffer.alloc(2 * 1024 * 1024 + 3, 'x'))
  writeFileSync(join(source, 'Dockerfile'), 'FROM scratch\n')
  writeFileSync(join(source, long), 'FROM long\n')
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

const tar = (...args: readonly string[]): Buffer =>
  execFileSync('tar', ['-C', source, ...args, '-c', '.'], { maxBuffer: 1 << 26 })

/** Cut where no structure of a tar ends. */
function pieces(bytes: Buffer): Readable {
  const parts: Buffer[] = []
  for (let at = 0; at < bytes.length; at += 10_007) parts.push(bytes.subarray(at, at + 10_007))
  return Readable.from(parts)
}

async function tarContext(bytes: Buffer) {
  const context = await readStdinContext(pieces(bytes))
  if (context.kind !== 'tar') throw new Error('taken for a Dockerfile')
  return context
}

async function failure(bytes: Buffer, name = 'Dockerfile'): Promise<string> {
  try {
    const context = await readStdinContext(pieces(bytes))
    if (context.kind === 'tar') {
      try {
        await context.dockerfile(name)
      } finally {
        await context.close()
      }
    }
  } catch (error) {
    if (isBuilderError(error)) return `${error.code} ${error.message}`
    throw error
  }
  throw new Error('nothing failed')
}

describe.each(['gnu', 'pax', 'ustar', 'v7'])('a tar in %s format', (format) => {
  const pack = () => (format === 'v7' ? tar('--format=v7', '--exclude=nnn*') : tar(`--format=${format}`))

  test('is recognised, keeps its bytes, and gives its Dockerfile', async () => {
    const bytes = pack()
    const context = await tarContext(bytes)
    expect((await context.dockerfile('Dockerfile'))?.toString()).toBe('FROM scratch\n')
    expect((await context.dockerfile('./Dockerfile'))?.toString()).toBe('FROM scratch\n')
    if (format !== 'v7') expect((await context.dockerfile(long))?.toString()).toBe('FROM long\n')
    expect(await context.dockerfile('Dockerfile.d')).toBeUndefined()
    expect(await context.dockerfile('nope')).toBeUndefined()
    const parts: Uint8Array[] = []
    for await (const part of context.open()) parts.push(part)
    expect(Buffer.concat(parts).equals(bytes)).toBe(true)
    await context.close()
  })
})

test.each([
  ['gzip', (bytes: Buffer) => gzipSync(bytes)],
  ...['bzip2', 'xz', 'zstd'].map(
    (program) =>
      [
        program,
        (bytes: Buffer) => spawnSync(program, ['-c'], { input: bytes, maxBuffer: 1 << 26 }).stdout,
      ] as const,
  ),
] as const)('a tar compressed with %s gives its Dockerfile too', async (_name, compress) => {
  const context = await tarContext(compress(tar()))
  expect((await context.dockerfile('Dockerfile'))?.toString()).toBe('FROM scratch\n')
  expect(await context.dockerfile('nope')).toBeUndefined()
  await context.close()
})

test('text is a Dockerfile without a context', async () => {
  const text = `FROM scratch\nLABEL a=${'é'.repeat(1000)}\n`
  const context = await readStdinContext(
    Readable.from([Buffer.from(text.slice(0, 5)), Buffer.from(text.slice(5))]),
  )
  expect(context.kind === 'dockerfile' && context.content.toString()).toBe(text)
})

test('what is neither is an error', async () => {
  expect(await failure(Buffer.alloc(0))).toBe(
    'ISB_CONTEXT_INVALID standard input is empty, expected a tar or a Dockerfile',
  )
  expect(await failure(Buffer.alloc(dockerfileLimit + 1, 0x20))).toBe(
    'ISB_LIMIT_EXCEEDED the Dockerfile is larger than 1 MiB',
  )
})

test('a damaged tar is an error', async () => {
  const whole = tar()
  expect(await failure(whole.subarray(0, 700_000), 'nope')).toContain(
    'ISB_CONTEXT_INVALID the tar on standard input is damaged',
  )
  expect(await failure(gzipSync(whole).subarray(0, 300), 'nope')).toContain(
    'ISB_CONTEXT_INVALID the tar on standard input is damaged',
  )
  const broken = gzipSync(whole)
  broken.fill(0x55, 100, 200)
  expect(await failure(broken, 'nope')).toContain('ISB_CONTEXT_INVALID the tar on standard input is damaged')
})

test('a Dockerfile over the limit is an error', async () => {
  expect(await failure(tar(), 'before')).toContain('ISB_LIMIT_EXCEEDED')
})

test('no name of the file that keeps the context is left', async () => {
  const mine = () => readdirSync(tmpdir()).filter((name) => name.startsWith('isula-build-context-'))
  const before = mine()
  const context = await tarContext(tar())
  expect(mine()).toEqual(before)
  await context.close()
})
