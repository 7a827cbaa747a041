import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { ContentRecord } from './content-log.js'
import { comparePaths } from './row-file.js'
import { createSourcesLog, explainSourcesJob, rowPath } from './sources-log.js'

let base: string
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'sources-log-'))
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

interface Logged {
  readonly digest?: string
  readonly mode?: number
  readonly uid?: number
  readonly link?: string
  readonly keepsOwner?: boolean
  readonly hardLink?: string
  readonly xattrs?: readonly (readonly [string, string])[]
}

function recordOf(path: string, more: Logged): ContentRecord {
  const type = more.link === undefined ? ('file' as const) : ('symlink' as const)
  const { mode = 0o644, uid = 0, link = '', xattrs = [] } = more
  return {
    path,
    entry: { type, mode, uid, gid: 0, link, xattrs, rdevMajor: 0, rdevMinor: 0 },
    keepsOwner: more.keepsOwner ?? false,
    hardLink: more.hardLink,
    source: undefined,
  }
}

function log(name: string, files: Readonly<Record<string, Logged>>): string {
  const path = join(base, name)
  using made = createSourcesLog(path)
  const sorted = Object.entries(files).sort(([a], [b]) => comparePaths(rowPath(a), rowPath(b)))
  for (const [key, more] of sorted) {
    made.add(recordOf(key, more), Buffer.alloc(32, more.digest ?? 'same'), undefined)
  }
  made.commit({ hardLinks: 0 })
  return path
}

const compare = (before: Readonly<Record<string, Logged>>, after: Readonly<Record<string, Logged>>) =>
  explainSourcesJob({ before: log('before', before), after: log('after', after) })

test('equal sources differ in nothing', () => {
  const files = { '0:a': {}, '0:a/b': { digest: 'x' }, '1:l': { link: 'a' } }
  expect(compare(files, files)).toEqual({ files: [], moreFiles: 0, modes: [], moreModes: 0 })
})

test('changed, new and missing files are told apart from changed modes', () => {
  const before = { '0:src/a': {}, '0:src/b': {}, '0:src/b.c': {}, '0:src/d': {}, '0:src/l': { link: 'a' } }
  const after: Readonly<Record<string, Logged>> = {
    ...{
      '0:src/a': { digest: 'other' },
      '0:src/b': { mode: 0o755 },
      '0:src/d': { xattrs: [['user.a', 'b']] },
    },
    ...{ '0:src/b/new': {}, '0:src/l': { link: 'b' } },
  }
  expect(compare(before, after)).toEqual({
    files: ['src/a', 'src/b.c', 'src/b/new', 'src/l'],
    moreFiles: 0,
    modes: ['src/b', 'src/d'],
    moreModes: 0,
  })
})

test('an owner counts only where it is copied', () => {
  expect(compare({ '0:a': { uid: 1 } }, { '0:a': { uid: 2 } })?.modes).toEqual([])
  const kept = { keepsOwner: true }
  expect(compare({ '0:a': { uid: 1, ...kept } }, { '0:a': { uid: 2, ...kept } })?.modes).toEqual(['a'])
})

test('a file that became a hard link changed', () => {
  expect(compare({ '0:/a': {}, '0:/b': {} }, { '0:/a': {}, '0:/b': { hardLink: '0:/a' } })?.files).toEqual([
    'b',
  ])
})

test('of many changes some are named', () => {
  const many = (digest: string) =>
    Object.fromEntries(Array.from({ length: 300 }, (_, index) => [`0:/f${index}`, { digest }]))
  expect(compare(many('a'), many('b'))).toMatchObject({
    files: ['f0', 'f1', 'f10', 'f100', 'f101'],
    moreFiles: 295,
  })
})

test('sources are paired by number, however many there are', () => {
  const numbered = (digest: string) =>
    Object.fromEntries(
      Array.from({ length: 12 }, (_, index) => [`${index}:f`, { digest: index === 9 ? digest : 'x' }]),
    )
  expect(compare(numbered('a'), numbered('b'))).toMatchObject({ files: ['f'], moreFiles: 0 })
})

test('names are shown as users know them', () => {
  const files = { '0:inline:EOF': {}, '1:download:file': {}, '2:/\xc3\xa9': {}, '3:': {} }
  expect(compare(files, {})?.files).toEqual(['.', 'EOF', 'file', 'é'])
})

test('a log that is missing, torn or damaged says nothing', () => {
  const files = Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`0:/f${index}`, {}]))
  const before = log('before', files)
  const after = log('after', files)
  const whole = readFileSync(after)
  for (let size = 0; size < whole.length; size += 7) {
    truncateSync(after, size)
    expect(explainSourcesJob({ before, after })).toBeUndefined()
    const damaged = Buffer.from(whole)
    damaged[size] = (damaged[size] ?? 0) ^ 1
    writeFileSync(after, damaged)
    expect(explainSourcesJob({ before, after })).toBeUndefined()
    writeFileSync(after, whole)
  }
  expect(explainSourcesJob({ before, after: join(base, 'none') })).toBeUndefined()
})
