import {
  chmodSync,
  closeSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { createStatTable, openStatTable } from '../../packages/builder-daemon/src/layer/copy/stat-table.js'
import type { CopyParams, ResolvedCopyInput } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'

const opened = vi.hoisted(() => ({ files: [] as string[] }))
vi.mock('../../packages/builder-daemon/src/layer/copy/transfer.js', async (original) => {
  const module = await original<typeof import('../../packages/builder-daemon/src/layer/copy/transfer.js')>()
  return {
    transfer: (...args: Parameters<typeof module.transfer>) => {
      opened.files.push(args[1])
      return module.transfer(...args)
    },
  }
})

describe('what is remembered of a context', () => {
  let base: string
  let context: string
  let tables: string
  let fd: number
  let offset = 0

  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'stat-table-'))
    context = join(base, 'context')
    tables = join(base, 'stat', '1000')
    mkdirSync(join(base, 'stat'))
    mkdirSync(context)
    fd = openSync(context, 'r')
    offset = 10_000
    const now = Date.now.bind(Date)
    vi.spyOn(Date, 'now').mockImplementation(() => now() + offset)
  })
  afterEach(() => {
    vi.restoreAllMocks()
    closeSync(fd)
    rmSync(base, { recursive: true, force: true })
  })

  const at = (path: string) => join(context, path)
  function put(path: string, content = path): void {
    mkdirSync(join(at(path), '..'), { recursive: true })
    writeFileSync(at(path), content)
  }

  function paramsOf(
    more: Partial<CopyParams> & { readonly input?: object; readonly statTables?: string } = {},
  ) {
    const { input, statTables = tables, ...rest } = more
    const tree = {
      ...{ kind: 'tree', root: { access: 'direct', fd, statTables }, pattern: '', unpack: false, ignore: [] },
      ...{ ignoreFile: undefined, isContext: true, ...input },
    } as ResolvedCopyInput
    return {
      ...{ upper: join(base, 'upper'), lowers: [], instruction: 'COPY', inputs: [tree], destination: '' },
      ...{ intoDirectory: true, chown: undefined, chmod: undefined, link: false, parents: false },
      ...{ excludes: [], fixedTime: undefined, ...rest },
    } as CopyParams
  }

  function withoutTables(params: CopyParams): CopyParams {
    const inputs = params.inputs.map((input) =>
      input.kind === 'tree' ? { ...input, root: { access: 'direct', fd } as const } : input,
    )
    return { ...params, inputs }
  }

  /** The content key, which must be what it is without a table, and the files that were read for it. */
  function digest(params = paramsOf()): { readonly key: string; readonly read: readonly string[] } {
    const plain = digestSourcesJob(withoutTables(params)).contentKey
    opened.files.length = 0
    const key = digestSourcesJob(params).contentKey
    expect(key).toBe(plain)
    return { key, read: [...opened.files].sort() }
  }

  function rewrite(path: string, content: string): void {
    const { atimeMs, mtimeMs } = lstatSync(at(path))
    writeFileSync(at(path), content)
    utimesSync(at(path), atimeMs / 1000, mtimeMs / 1000)
  }

  test('an unchanged tree is walked and no file is opened', () => {
    put('a/b/one')
    put('a/two')
    symlinkSync('two', at('a/link'))
    expect(digest().read).toEqual(['a/b/one', 'a/two'])
    expect(digest().read).toEqual([])
    expect(digest().read).toEqual([])
  })

  test('only what changed is read again', () => {
    for (const name of ['a', 'b', 'b.c', 'b/c/d', 'e'].filter((name) => name !== 'b')) put(name)
    digest()
    put('b/c/d', 'new')
    expect(digest().read).toEqual(['b/c/d'])
    put('b/a')
    rmSync(at('a'))
    expect(digest().read).toEqual(['b/a'])
    renameSync(at('b.c'), at('zz'))
    expect(digest().read).toEqual(['zz'])
    expect(digest().read).toEqual([])
  })

  test('an edit that keeps size and mtime is seen', () => {
    put('f', 'one')
    digest()
    rewrite('f', 'two')
    expect(digest().read).toEqual(['f'])
  })

  test('another file that is renamed over one of equal size and mtime is seen', () => {
    put('f', 'one')
    put('g', 'two')
    for (const name of ['f', 'g']) utimesSync(at(name), 5, 5)
    digest()
    renameSync(at('g'), at('f'))
    expect(digest().read).toEqual(['f'])
  })

  test('an inode that is used again is seen', () => {
    put('f', 'one')
    digest()
    for (let round = 0; round < 20; round += 1) {
      rmSync(at('f'))
      put('f', 'two')
      utimesSync(at('f'), 5, 5)
      expect(digest().read).toEqual(['f'])
    }
  })

  test('what was touched less than two seconds before is read again until it is older', () => {
    offset = 0
    put('f')
    expect(digest().read).toEqual(['f'])
    expect(digest().read).toEqual(['f'])
    offset = 1900
    expect(digest().read).toEqual(['f'])
    offset = 2500
    expect(digest().read).toEqual(['f'])
    expect(digest().read).toEqual([])
    utimesSync(at('f'), 4e9, 4e9)
    expect(digest().read).toEqual(['f'])
    expect(digest().read).toEqual(['f'])
  })

  test('a clock that was set back trusts nothing of its future, and sees what is written', () => {
    put('f', 'one')
    offset = -3_600_000
    expect(digest().read).toEqual(['f'])
    expect(digest().read).toEqual(['f'])
    offset = 10_000
    digest()
    offset = -3_600_000
    expect(digest().read).toEqual([])
    rewrite('f', 'two')
    expect(digest().read).toEqual(['f'])
  })

  test('modes, owners, attributes, links and types count', () => {
    put('d/f')
    put('d/g')
    let before = digest().key
    const changes = [
      () => chmodSync(at('d/f'), 0o600),
      () => chmodSync(at('d'), 0o700),
      () => lsetxattr(at('d/f'), 'user.a', Buffer.from('b')),
      () => lsetxattr(at('d'), 'user.a', Buffer.from([0, 255])),
      () => linkSync(at('d/f'), at('d/h')),
      () => symlinkSync('f', at('d/l')),
      () => {
        rmSync(at('d/g'))
        mkdirSync(at('d/g'))
      },
    ]
    for (const change of changes) {
      change()
      const { key } = digest()
      expect(key).not.toBe(before)
      before = key
      expect(digest()).toEqual({ key, read: [] })
    }
  })

  test('links on the way to a source count', () => {
    put('one/f', '1')
    put('two/f', '2')
    symlinkSync('one', at('link'))
    const params = paramsOf({ input: { pattern: 'link' } })
    const { key } = digest(params)
    rmSync(at('link'))
    symlinkSync('two', at('link'))
    expect(digest(params).key).not.toBe(key)
  })

  test('a file that a pattern matches since yesterday is found', () => {
    put('a.json')
    const params = paramsOf({ input: { pattern: '*.json' } })
    const { key } = digest(params)
    put('b.json')
    expect(digest(params).key).not.toBe(key)
    expect(digest(params).read).toEqual([])
  })

  test('what is ignored may change', () => {
    put('src/f')
    put('src/log/old')
    put('out/f')
    const params = paramsOf({
      input: { ignore: ['out', '**/log', '!src/log/kept'] },
    })
    digest(params)
    put('out/f', 'other')
    put('src/log/old', 'other')
    expect(digest(params).read).toEqual([])
    put('src/log/kept')
    expect(digest(params).read).toEqual(['src/log/kept'])
  })

  test('another COPY of the same context has a table of its own', () => {
    put('a')
    put('b')
    digest()
    digest(paramsOf({ excludes: ['b'] }))
    expect(readdirSync(tables)).toHaveLength(2)
    expect(digest().read).toEqual([])
    expect(digest(paramsOf({ excludes: ['b'] })).read).toEqual([])
  })

  test('a table of another user is not looked at', () => {
    put('a')
    digest()
    expect(digest(paramsOf({ statTables: join(base, 'stat', '1001') })).read).toEqual(['a'])
  })

  test('a torn or forged table is not believed, wherever it was changed', () => {
    for (let index = 0; index < 40; index += 1) put(`d/${index}`)
    digest()
    const [name = ''] = readdirSync(tables)
    const file = join(tables, name)
    const whole = readFileSync(file)
    const step = Math.max(1, Math.floor(whole.length / 200))
    // So that the rows are looked at too.
    put('d/0', 'changed')
    for (let place = 0; place < whole.length; place += step) {
      const forged = Buffer.from(whole)
      forged[place] = (forged[place] ?? 0) ^ 0x41
      writeFileSync(file, forged)
      digest()
      writeFileSync(file, whole)
      truncateSync(file, place)
      digest()
    }
  })

  test('a key that no copy gives does not outlive the next copy', () => {
    put('d/f')
    digest()
    const [name = ''] = readdirSync(tables)
    const file = join(tables, name)
    const identity = readFileSync(file).subarray(16, 48)
    {
      using table = openStatTable(file, identity)
      using writer = createStatTable(file, identity)
      const { state } = table?.known ?? expect.unreachable('a table without a key')
      writer.commit({ state, contentKey: `sha256:${'ab'.repeat(32)}` })
    }
    const params = paramsOf()
    expect(digestSourcesJob(params).contentKey).toBe(`sha256:${'ab'.repeat(32)}`)
    mkdirSync(params.upper)
    const { contentKey } = copyJob(params)
    opened.files.length = 0
    expect(digestSourcesJob(params).contentKey).toBe(contentKey)
    expect(opened.files).toEqual([])
  })

  test('any edits of any tree give the key that reading everything gives', () => {
    let seed = 12345
    const random = (below: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
      return (seed >>> 8) % below
    }
    const names = ['a', 'a.b', 'b', 'B', 'c', '0', 'é']
    const path = () => Array.from({ length: 1 + random(3) }, () => names[random(names.length)]).join('/')
    const edits: (() => void)[] = [
      () => put(path(), String(random(1000))),
      () => rmSync(at(path()), { recursive: true, force: true }),
      () => renameSync(at(path()), at(path())),
      () => linkSync(at(path()), at(path())),
      () => symlinkSync(path(), at(path())),
      () => chmodSync(at(path()), 0o600 + random(0o200)),
      () => utimesSync(at(path()), random(1000), random(1000)),
      () => rewrite(path(), String(random(1000))),
      () => mkdirSync(at(path()), { recursive: true }),
      () => lsetxattr(at(path()), 'user.a', Buffer.from([random(256)])),
    ]
    const shapes = [
      paramsOf(),
      paramsOf({ excludes: ['a', '!a/b'] }),
      paramsOf({ parents: true, input: { pattern: './*/b' } }),
      paramsOf({ input: { pattern: '*', ignore: ['b', '!b/c', '**/0'] } }),
    ]
    for (let round = 0; round < 150; round += 1) {
      for (let edit = 0; edit <= random(4); edit += 1) {
        try {
          edits[random(edits.length)]?.()
        } catch (error) {
          if ((error as NodeJS.ErrnoException).syscall === undefined && !('errno' in (error as object)))
            throw error
        }
      }
      const params = shapes[random(shapes.length)] ?? paramsOf()
      let plain: string | undefined
      try {
        plain = digestSourcesJob(withoutTables(params)).contentKey
      } catch (error) {
        expect(() => digestSourcesJob(params)).toThrow((error as Error).message)
        continue
      }
      offset = random(3) === 0 ? 0 : 10_000
      expect(digestSourcesJob(params).contentKey).toBe(plain)
      expect(digestSourcesJob(params).contentKey).toBe(plain)
    }
  })
})
