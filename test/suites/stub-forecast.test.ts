import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { findSystemFile, kernelMountPoints } from '../../packages/builder-daemon/src/runtime/mount-points.js'
import { forecastStubs } from '../../packages/builder-daemon/src/runtime/stub-forecast.js'
import { openMerged } from '../../packages/builder-daemon/src/system/detached-overlay.js'
import { lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import { fstatat, lstatIfExists } from '../../packages/builder-daemon/src/system/file-stat.js'
import { AT_FDCWD } from '../../packages/builder-daemon/src/system/libc.js'
import { mknodat, S_IFCHR } from '../../packages/builder-daemon/src/system/syscalls.js'
import { seededRandom } from '../support/random-choices.js'

const systemFiles = ['hosts', 'resolv.conf']
const kinds = ['nothing', 'nothing', 'directory', 'opaque', 'file', 'link', 'whiteout'] as const

describe.skipIf(process.getuid?.() !== 0)('stubs that are forecast (needs root)', () => {
  const made: string[] = []
  afterEach(() => {
    for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true })
  })

  const place = (path: string, kind: (typeof kinds)[number], mode: number): void => {
    if (kind === 'nothing') return
    mkdirSync(dirname(path), { recursive: true })
    if (kind === 'file') writeFileSync(path, 'x')
    else if (kind === 'link') symlinkSync('/usr', path)
    else if (kind === 'whiteout') mknodat(AT_FDCWD, path, S_IFCHR, 0, 0)
    else {
      mkdirSync(path, { recursive: true })
      chmodSync(path, mode)
      if (kind === 'opaque') lsetxattr(path, 'trusted.overlay.opaque', Buffer.from('y'))
    }
  }

  test('are those that the mounted layers lack', () => {
    let simple = 0
    for (let seed = 1; seed <= 150; seed++) {
      const { next, pick } = seededRandom(seed)
      const root = mkdtempSync(join(tmpdir(), 'isula-forecast-'))
      made.push(root)
      const lowers = Array.from({ length: 1 + next(4) }, (_, index) => `layer${index}`)
      for (const lower of lowers) {
        const layer = join(root, lower)
        mkdirSync(layer)
        for (const name of ['proc', 'sys', 'dev', 'etc']) {
          place(join(layer, name), pick(kinds), 0o700 + next(64))
        }
        const parent = lstatIfExists(AT_FDCWD, join(layer, 'etc'))
        if (parent?.type !== 'directory') continue
        for (const name of systemFiles) {
          place(join(layer, 'etc', name), pick(kinds), 0o755)
        }
      }
      const forecast = forecastStubs(lowers, root, systemFiles)
      if (forecast === undefined) continue
      simple++
      const merged = openMerged(lowers.map((lower) => join(root, lower)).reverse())
      try {
        const wanted = [
          ...kernelMountPoints(merged.fd),
          ...systemFiles.flatMap((name) => findSystemFile(merged.fd, `/etc/${name}`) ?? []),
        ].filter(({ missing }) => missing)
        expect([seed, forecast.missing]).toEqual([seed, wanted])
        const seen = lstatIfExists(merged.fd, 'etc')
        if (seen?.type === 'directory') {
          expect(fstatat(AT_FDCWD, `${forecast.seenIn}/etc`).mode).toBe(seen.mode)
        } else expect(forecast.seenIn).toBeUndefined()
      } finally {
        merged.close()
      }
    }
    expect(simple).toBeGreaterThan(50)
  })

  test('are not forecast where a link leads somewhere', () => {
    const root = mkdtempSync(join(tmpdir(), 'isula-forecast-'))
    made.push(root)
    place(join(root, 'linked', 'etc'), 'link', 0o755)
    place(join(root, 'inside', 'etc', 'hosts'), 'link', 0o755)
    expect(forecastStubs(['linked'], root, systemFiles)).toBeUndefined()
    expect(forecastStubs(['inside'], root, systemFiles)).toBeUndefined()
  })
})
