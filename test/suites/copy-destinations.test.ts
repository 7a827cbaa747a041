import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openMerged } from '../../packages/builder-daemon/src/system/detached-overlay.js'
import {
  fgetxattr,
  lgetxattr,
  lsetxattr,
} from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { useCopyBench } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('The destination of COPY (needs root)', () => {
  const bench = useCopyBench()
  const { file, layer, copy, failure, list, modeOf, ownerOf } = bench

  describe('destinations', () => {
    test('missing parents are 0755 and take the owner of --chown', () => {
      file('f')
      const { upper } = copy('f', '/a/b/c', { chown: '7:8', chmod: '600' })
      expect(list(upper)).toEqual(['a/', 'a/b/', 'a/b/c'])
      expect([modeOf(join(upper, 'a')), ownerOf(join(upper, 'a/b'))]).toEqual(['755', '7:8'])
      expect([modeOf(join(upper, 'a/b/c')), ownerOf(join(upper, 'a/b/c'))]).toEqual(['600', '7:8'])
    })

    test('existing parents are copied up with all their metadata', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'opt/app'), { recursive: true })
        chmodSync(join(directory, 'opt'), 0o2771)
        chownSync(join(directory, 'opt'), 5, 6)
        chmodSync(join(directory, 'opt'), 0o2771)
        lsetxattr(join(directory, 'opt'), 'user.kept', Buffer.from('yes'))
        utimesSync(join(directory, 'opt'), 500, 500)
      })
      file('f')
      const { upper } = copy('f', '/opt/app/')
      expect([modeOf(join(upper, 'opt')), ownerOf(join(upper, 'opt'))]).toEqual(['2771', '5:6'])
      expect(lgetxattr(join(upper, 'opt'), 'user.kept')).toEqual(Buffer.from('yes'))
      expect(lstatSync(join(upper, 'opt')).mtimeMs).toBe(500_000)
    })

    test('an existing directory keeps its mode at the top and takes the source’s below', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'x/sub'), { recursive: true })
        chmodSync(join(directory, 'x'), 0o700)
        chownSync(join(directory, 'x'), 5, 5)
        chownSync(join(directory, 'x/sub'), 5, 5)
        writeFileSync(join(directory, 'x/sub/old'), 'old')
      })
      file('d/sub/new')
      chmodSync(join(bench.context, 'd/sub'), 0o711)
      const { upper } = copy('d', '/x')
      expect([modeOf(join(upper, 'x')), ownerOf(join(upper, 'x'))]).toEqual(['700', '5:5'])
      expect([modeOf(join(upper, 'x/sub')), ownerOf(join(upper, 'x/sub'))]).toEqual(['711', '0:0'])
      expect(list(upper)).toEqual(['x/', 'x/sub/', 'x/sub/new'])
    })

    test('links in the image are followed inside it, a last one too', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'real'))
        symlinkSync('/real', join(directory, 'link'))
        symlinkSync('../../../../../../../tmp/outside', join(directory, 'up'))
        writeFileSync(join(directory, 'target'), 'old')
        symlinkSync('/target', join(directory, 'file'))
        symlinkSync('self', join(directory, 'self'))
      })
      file('f', 'new')
      expect(list(copy('f', '/link/').upper)).toEqual(['real/', 'real/f'])
      expect(list(copy('f', '/link/g').upper)).toEqual(['real/', 'real/g'])
      expect(list(copy('f', '/up/').upper)).toEqual(['tmp/', 'tmp/outside/', 'tmp/outside/f'])
      expect(list(copy('f', '/file').upper)).toEqual(['target'])
      expect(existsSync('/tmp/outside')).toBe(false)
      expect(failure('f', '/self/x')).toMatchObject({ code: 'ISB_COPY_FAILED' })
    })

    test('several sources go into what is a directory, or becomes one', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'there'))
        symlinkSync('there', join(directory, 'link'))
        writeFileSync(join(directory, 'file'), 'old')
      })
      file('f')
      file('g')
      file('d/h')
      for (const destination of ['/there', '/link', '/there/']) {
        expect(list(copy(['f', 'g'], destination).upper)).toEqual(['there/', 'there/f', 'there/g'])
      }
      expect(list(copy(['d', 'f'], '/new').upper)).toEqual(['new/', 'new/f', 'new/h'])
      // As BuildKit: where there is none, each is the file of that name.
      for (const destination of ['/new', '/file', '/there/new']) {
        const { upper } = copy(['f', 'g'], destination)
        expect(readFileSync(join(upper, destination), 'utf8')).toBe('g')
      }
      expect(failure(['f', 'd'], '/new')).toMatchObject({ code: 'ISB_COPY_FAILED' })
    })

    test('with --link nothing below is looked at', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'real'))
        symlinkSync('/real', join(directory, 'link'))
        chmodSync(join(directory, 'real'), 0o700)
      })
      file('f')
      const { upper } = copy('f', '/link/', { link: true })
      expect(list(upper)).toEqual(['link/', 'link/f'])
      const real = copy('f', '/real/', { link: true }).upper
      expect(modeOf(join(real, 'real'))).toBe('755')
      expect(copy('f', '/real/', { link: true, lowers: [] }).tarSize).toBe(
        copy('f', '/real/', { link: true }).tarSize,
      )
    })

    test('files and directories do not replace each other', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'dir/f'), { recursive: true })
        mkdirSync(join(directory, 'etc'))
        writeFileSync(join(directory, 'etc/passwd'), 'root:x:0:0::/:/bin/sh\n')
        symlinkSync('/etc', join(directory, 'dir/d'))
      })
      file('f')
      file('t/d/x')
      file('t2/f')
      expect(failure('f', '/etc/passwd/x/')).toMatchObject({
        code: 'ISB_COPY_FAILED',
        message: '/etc/passwd is not a directory, needed for /etc/passwd/x',
      })
      expect(failure('f', '/etc/passwd/')).toMatchObject({ code: 'ISB_COPY_FAILED' })
      expect(failure('t', '/etc/passwd')).toMatchObject({ code: 'ISB_COPY_FAILED' })
      expect(failure('t2', '/dir')).toMatchObject({ message: 'cannot replace directory /dir/f with a file' })
      expect(failure('t', '/dir')).toMatchObject({
        message: 'cannot copy a directory to /dir/d, which is not a directory',
      })
    })

    test('owners by name are those of the image', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'etc'))
        writeFileSync(join(directory, 'etc/passwd'), 'zoe:x:501:502::/:/bin/sh\n')
        writeFileSync(join(directory, 'etc/group'), 'mail:x:8:\n')
      })
      file('f')
      expect(ownerOf(join(copy('f', '/x', { chown: 'zoe' }).upper, 'x'))).toBe('501:502')
      expect(ownerOf(join(copy('f', '/x', { chown: 'zoe:mail' }).upper, 'x'))).toBe('501:8')
      expect(ownerOf(join(copy('f', '/x', { chown: '3' }).upper, 'x'))).toBe('3:3')
      expect(failure('f', '/x', { chown: 'nobody-there' })).toMatchObject({ code: 'ISB_ARGUMENT_INVALID' })
      expect(failure('f', '/x', { chmod: 'bogus' })).toMatchObject({ code: 'ISB_ARGUMENT_INVALID' })
    })

    test('a fixed time is the time of everything', () => {
      layer((directory) => mkdirSync(join(directory, 'old')))
      file('d/f')
      const { upper } = copy('d', '/old/new/', { fixedTime: 77 })
      for (const path of ['', 'old', 'old/new', 'old/new/f']) {
        expect(lstatSync(join(upper, path)).mtimeMs).toBe(77_000)
      }
    })

    test('what would look like a deletion cannot be copied', () => {
      file('.wh.gone')
      expect(failure('.wh.gone', '/')).toMatchObject({ code: 'ISB_UNSUPPORTED' })
      execFileSync('mknod', [join(bench.context, 'zero'), 'c', '0', '0'])
      expect(failure('zero', '/')).toMatchObject({ code: 'ISB_COPY_FAILED' })
    })

    test('the result over the layers is what was asked for', () => {
      layer((directory) => {
        mkdirSync(join(directory, 'app'))
        writeFileSync(join(directory, 'app/kept'), 'kept')
        writeFileSync(join(directory, 'app/f'), 'old')
      })
      file('d/f', 'new')
      const { upper } = copy('d', '/app')
      const merged = openMerged([upper, ...bench.layers])
      try {
        expect(list(`/proc/self/fd/${merged.fd}`)).toEqual(['app/', 'app/f', 'app/kept'])
        expect(readFileSync(`/proc/self/fd/${merged.fd}/app/f`, 'utf8')).toBe('new')
        expect(fgetxattr(merged.fd, 'trusted.overlay.opaque')).toBeUndefined()
      } finally {
        merged.close()
      }
    })
  })
})
