import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { contentKeyVersion } from '../../packages/builder-daemon/src/layer/copy/content-log.js'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { type Copy, useCopyBench } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('The content of COPY (needs root)', () => {
  const bench = useCopyBench()
  const { file, paramsOf, copy } = bench

  describe('thousands of sources', () => {
    const many = Array.from({ length: 5000 }, () => 'a')

    test.each(['copy', 'digestSources'] as const)(
      'are given up at once when nobody wants them: %s',
      (job) => {
        file('a')
        let checks = 0
        const control = {
          check() {
            checks += 1
            if (checks > 50) throw new BuilderError('ISB_CANCELLED', 'cancelled')
          },
        }
        const params = paramsOf(many, '/d/', {})
        const run = job === 'copy' ? copyJob : digestSourcesJob
        const began = performance.now()
        expect(() => run(params, control)).toThrow('cancelled')
        expect(performance.now() - began).toBeLessThan(1000)
      },
    )
  })

  describe('the content key', () => {
    const key = (sources: string | readonly string[], options: Copy = {}) =>
      copy(sources, '/x/', options).contentKey

    test('is the one that is remembered elsewhere, as long as its version does not change', () => {
      file('d/f', 'one')
      chmodSync(join(bench.context, 'd/f'), 0o640)
      mkdirSync(join(bench.context, 'd/sub'))
      chmodSync(join(bench.context, 'd/sub'), 0o755)
      symlinkSync('f', join(bench.context, 'd/l'))
      expect([contentKeyVersion, key('d')]).toEqual([
        3,
        'sha256:889aab8bc4b93544b63cb60527d04c5495dcf8bd56fd53446de0f74f79acd92e',
      ])
    })

    test('does not change with times, nor with the owner of a context', () => {
      file('d/f')
      const before = key('d')
      utimesSync(join(bench.context, 'd/f'), 5, 5)
      utimesSync(join(bench.context, 'd'), 5, 5)
      chownSync(join(bench.context, 'd/f'), 3, 3)
      chmodSync(join(bench.context, 'd'), 0o711)
      expect(key('d')).toBe(before)
    })

    test('changes with content, mode, names, links and attributes', () => {
      const seen = new Set<string>()
      const isNew = (change: () => void) => {
        change()
        const now = key('d')
        expect(seen.has(now)).toBe(false)
        seen.add(now)
      }
      isNew(() => file('d/f', 'one'))
      isNew(() => file('d/f', 'two'))
      isNew(() => chmodSync(join(bench.context, 'd/f'), 0o600))
      isNew(() => file('d/g', 'two'))
      isNew(() => mkdirSync(join(bench.context, 'd/sub')))
      isNew(() => chmodSync(join(bench.context, 'd/sub'), 0o700))
      isNew(() => symlinkSync('f', join(bench.context, 'd/l')))
      isNew(() => {
        rmSync(join(bench.context, 'd/l'))
        symlinkSync('g', join(bench.context, 'd/l'))
      })
      isNew(() => lsetxattr(join(bench.context, 'd/f'), 'user.a', Buffer.from('b')))
      isNew(() => linkSync(join(bench.context, 'd/f'), join(bench.context, 'd/h')))
    })

    test('sees content that another source replaces', () => {
      file('d1/f', 'one')
      file('d2/f', 'two')
      const before = key('d?/f')
      file('d1/f', 'other')
      expect(key('d?/f')).not.toBe(before)
    })

    test('does not see what is ignored', () => {
      file('d/f')
      const before = key('d', { ignore: ['**/*.md'] })
      file('d/x.md')
      expect(key('d', { ignore: ['**/*.md'] })).toBe(before)
    })
  })

  test('a file that changes while it is read fails the copy by name', () => {
    file('d/a', 'x'.repeat(3_000_000))
    const params = paramsOf(['d'], '/x', {})
    let checks = 0
    const control = {
      check() {
        checks += 1
        if (checks === 8) writeFileSync(join(bench.context, 'd/a'), 'short')
      },
    }
    expect(() => copyJob(params, control)).toThrow(
      expect.objectContaining({ code: 'ISB_CONTEXT_CHANGED', message: '/d/a changed while it was copied' }),
    )
  })

  test('a deep chain of directories is copied, one that is longer than any path is refused', () => {
    const chain = (length: number): string => Array.from({ length }, () => 'd').join('/')
    file(`deep/${chain(600)}/end`)
    const params = paramsOf(['deep'], '/x/', {})
    expect(digestSourcesJob(params).contentKey).toBe(copyJob(params).contentKey)
    const dig =
      'cd "$1" && d=$(printf "%0250d" 0) && for i in $(seq 30); do mkdir $d && cd -P $d || exit; done'
    try {
      // A shell that exports where it is could start nothing there.
      execFileSync('sh', ['-c', dig, '-', bench.context], { env: { PATH: process.env['PATH'] } })
      for (const job of [copyJob, digestSourcesJob]) {
        expect(() => job(paramsOf(['.'], '/y/', {}))).toThrow(
          expect.objectContaining({
            code: 'ISB_LIMIT_EXCEEDED',
            message: expect.stringMatching(/4096 bytes/),
          }),
        )
      }
      const ignored = paramsOf(['.'], '/y/', { ignore: ['0*', 'deep'] })
      expect(copyJob(ignored).entries).toBe(1)
    } finally {
      execFileSync('rm', ['-rf', bench.context])
    }
  }, 30_000)

  test('many files and deep directories are copied', () => {
    const deep = Array.from({ length: 300 }, () => 'd').join('/')
    file(`${deep}/end`)
    for (let index = 0; index < 500; index += 1) file(`many/${index}`)
    const { entries } = copy('.', '/x/')
    expect(entries).toBe(1 + 300 + 1 + 1 + 500)
  })
})
