import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { ResolvedCopyInput } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { lgetxattr, lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { statPath } from '../../packages/builder-daemon/src/system/file-stat.js'
import { emptyLayer, useCopyBench } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('The sources of COPY (needs root)', () => {
  const bench = useCopyBench()
  const { file, copy, failure, list, modeOf, ownerOf } = bench

  describe('sources', () => {
    test('a file keeps mode and time, and belongs to root when it comes from a context', () => {
      file('f', 'content', 0o4750)
      chownSync(join(bench.context, 'f'), 7, 8)
      chmodSync(join(bench.context, 'f'), 0o4750)
      execFileSync('touch', ['-d', '@1234567890.123456789', join(bench.context, 'f')])
      const { upper } = copy('f', '/g')
      expect(list(upper)).toEqual(['g'])
      expect(modeOf(join(upper, 'g'))).toBe('4750')
      expect(ownerOf(join(upper, 'g'))).toBe('0:0')
      expect(statPath(join(upper, 'g')).mtimeNs).toBe(1234567890123456789n)
      expect(readFileSync(join(upper, 'g'), 'utf8')).toBe('content')
    })

    test('the content of a directory is copied, not the directory', () => {
      file('d/one')
      file('d/sub/two')
      mkdirSync(join(bench.context, 'd/empty'), { mode: 0o711 })
      chmodSync(join(bench.context, 'd'), 0o700)
      utimesSync(join(bench.context, 'd'), 1000, 1000)
      const { upper } = copy('d', '/x')
      expect(list(upper)).toEqual(['x/', 'x/empty/', 'x/one', 'x/sub/', 'x/sub/two'])
      expect(modeOf(join(upper, 'x'))).toBe('755')
      expect(lstatSync(join(upper, 'x')).mtimeMs).toBe(1_000_000)
      expect(modeOf(join(upper, 'x/empty'))).toBe('711')
    })

    test('wildcards match single components, in byte order, hidden files too', () => {
      for (const name of ['a1', 'b1', '.h', 'd/a2', 'd/e/a3']) file(name)
      expect(list(copy('a*', '/x/').upper)).toEqual(['x/', 'x/a1'])
      expect(list(copy('*/a*', '/x/').upper)).toEqual(['x/', 'x/a2'])
      expect(list(copy('**/a*', '/x/').upper)).toEqual(['x/', 'x/a2'])
      expect(list(copy('[^a]*', '/x/').upper)).toEqual(['x/', 'x/.h', 'x/a2', 'x/b1', 'x/e/', 'x/e/a3'])
    })

    test('a wildcard without a match copies nothing, as with BuildKit; a missing name fails', () => {
      file('f')
      expect(copy('no*', '/x/').diffId).toBe(emptyLayer)
      expect(list(copy(['f', 'no*'], '/x/').upper)).toEqual(['x/', 'x/f'])
      expect(failure('no', '/x/')).toMatchObject({
        code: 'ISB_CONTEXT_NOT_FOUND',
        message: '"/no": not found',
      })
      expect(failure('no/*', '/x/')).toMatchObject({ code: 'ISB_CONTEXT_NOT_FOUND' })
      expect(failure('f/x', '/x')).toMatchObject({ code: 'ISB_CONTEXT_NOT_FOUND' })
    })

    test('the last of several matches wins', () => {
      file('d1/f', 'first')
      file('d2/f', 'second, longer')
      const { upper } = copy('d?/f', '/x/')
      expect(readFileSync(join(upper, 'x/f'), 'utf8')).toBe('second, longer')
    })

    test('links to a source are followed inside the bench.context, links below it are kept', () => {
      file('d/f', 'f')
      symlinkSync('d', join(bench.context, 'dl'))
      symlinkSync('/d/f', join(bench.context, 'fl'))
      symlinkSync('../../../../etc/passwd', join(bench.context, 'd/out'))
      expect(list(copy('dl', '/x').upper)).toEqual(['x/', 'x/f', 'x/out'])
      expect(readFileSync(join(copy('dl/f', '/x').upper, 'x'), 'utf8')).toBe('f')
      expect(readFileSync(join(copy('fl', '/x/').upper, 'x/fl'), 'utf8')).toBe('f')
      expect(readlinkSync(join(copy('d', '/x').upper, 'x/out'))).toBe('../../../../etc/passwd')
    })

    test('no link and no .. leads out of the context', () => {
      symlinkSync('/etc', join(bench.context, 'dlink'))
      symlinkSync('../../../etc/passwd', join(bench.context, 'up'))
      symlinkSync('loop', join(bench.context, 'loop'))
      file('f', 'inside')
      expect(failure('dlink/passwd', '/x')).toMatchObject({ code: 'ISB_CONTEXT_NOT_FOUND' })
      expect(failure('up', '/x')).toMatchObject({ code: 'ISB_CONTEXT_NOT_FOUND' })
      expect(failure('loop', '/x')).toMatchObject({ code: 'ISB_COPY_FAILED' })
      expect(readFileSync(join(copy('../../f', '/x').upper, 'x'), 'utf8')).toBe('inside')
    })

    test('names that are no UTF-8 survive', () => {
      writeFileSync(Buffer.concat([Buffer.from(`${bench.context}/`), Buffer.from([0xff, 0xfe])]), 'x')
      const { upper } = copy('.', '/x/')
      expect(readdirSync(join(upper, 'x'), { encoding: 'latin1' })).toEqual(['\xff\xfe'])
    })

    test('sockets are left out, devices and FIFOs are made', () => {
      file('d/f')
      execFileSync('mkfifo', ['-m', '620', join(bench.context, 'd/fifo')])
      const server = createServer().listen(join(bench.context, 'd/socket'))
      expect(statPath(join(bench.context, 'd/socket')).type).toBe('socket')
      execFileSync('mknod', ['-m', '640', join(bench.context, 'd/null'), 'c', '1', '3'])
      const { upper } = copy('d', '/x')
      expect(list(upper)).toEqual(['x/', 'x/f', 'x/fifo', 'x/null'])
      expect(statPath(join(upper, 'x/null'))).toMatchObject({ type: 'character', rdevMajor: 1, rdevMinor: 3 })
      expect(statPath(join(upper, 'x/fifo')).type).toBe('fifo')
      expect([modeOf(join(upper, 'x/fifo')), ownerOf(join(upper, 'x/fifo'))]).toEqual(['620', '0:0'])
      const alone = copy('d/fifo', '/y', { chown: '5:6', chmod: '600' }).upper
      expect([modeOf(join(alone, 'y')), ownerOf(join(alone, 'y'))]).toEqual(['600', '5:6'])
      expect(failure('d/socket', '/x')).toMatchObject({ code: 'ISB_COPY_FAILED' })
      server.close()
    })

    test('hard links below one source stay links, those between two become files', () => {
      file('d/a', 'same')
      linkSync(join(bench.context, 'd/a'), join(bench.context, 'd/b'))
      const { upper } = copy('d', '/x')
      expect(lstatSync(join(upper, 'x/a')).ino).toBe(lstatSync(join(upper, 'x/b')).ino)
      const apart = copy(['d/a', 'd/b'], '/x/').upper
      expect(lstatSync(join(apart, 'x/a')).ino).not.toBe(lstatSync(join(apart, 'x/b')).ino)
    })

    test('extended attributes are kept, security.capability to the byte', () => {
      file('f', 'f', 0o755)
      const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex')
      lsetxattr(join(bench.context, 'f'), 'security.capability', capability)
      lsetxattr(join(bench.context, 'f'), 'user.binary', Buffer.from([0, 255, 128, 10]))
      lsetxattr(join(bench.context, 'f'), 'user.overlay.opaque', Buffer.from('y'))
      for (const options of [{}, { chown: '5:6' }]) {
        const target = join(copy('f', '/x', options).upper, 'x')
        expect(lgetxattr(target, 'security.capability')).toEqual(capability)
        expect(lgetxattr(target, 'user.binary')).toEqual(Buffer.from([0, 255, 128, 10]))
        expect(lgetxattr(target, 'user.overlay.opaque')).toBeUndefined()
      }
    })

    test('from layers the owner is kept, and the layers are seen as one', () => {
      const lower = join(bench.base, 'image-0')
      const upper = join(bench.base, 'image-1')
      mkdirSync(join(lower, 'd'), { recursive: true })
      mkdirSync(join(upper, 'd'), { recursive: true })
      writeFileSync(join(lower, 'd/old'), 'old')
      chownSync(join(lower, 'd/old'), 33, 34)
      execFileSync('mknod', [join(upper, 'd/gone'), 'c', '0', '0'])
      writeFileSync(join(lower, 'd/gone'), 'gone')
      writeFileSync(join(upper, 'd/new'), 'new')
      const done = copy('/d', '/x', { from: [upper, lower] })
      expect(list(done.upper)).toEqual(['x/', 'x/new', 'x/old'])
      expect(ownerOf(join(done.upper, 'x/old'))).toBe('33:34')
    })

    test('inline text and downloads become files', () => {
      const download = join(bench.base, 'download')
      writeFileSync(download, 'downloaded')
      const inputs: ResolvedCopyInput[] = [
        { kind: 'inline', name: 'EOF', content: 'h\u00e9llo\n' },
        { kind: 'download', file: download, name: 'page', mtime: 1234, unpack: false },
      ]
      const { upper } = copy([], '/x/', { inputs, chown: '3:4' })
      expect(readFileSync(join(upper, 'x/EOF'), 'utf8')).toBe('h\u00e9llo\n')
      expect(modeOf(join(upper, 'x/EOF'))).toBe('644')
      expect(modeOf(join(upper, 'x/page'))).toBe('600')
      expect(ownerOf(join(upper, 'x/page'))).toBe('3:4')
      expect(lstatSync(join(upper, 'x/page')).mtimeMs).toBe(1_234_000)
    })
  })
})
