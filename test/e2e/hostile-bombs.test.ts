import { execFileSync } from 'node:child_process'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  paxRecord,
  type RawEntry,
  rawEntry,
  rawTar,
} from '../../packages/builder-daemon/src/layer/test-layers.js'
import { type Door, doors, offer } from '../support/archive-doors.js'
import { gzipBomb, zstdBomb } from '../support/compressed-bombs.js'
import { diskUsage } from '../support/daemon-bench.js'
import { createHostileBench, type HostileBench } from '../support/hostile-bench.js'

/** Archives that are damaged, endless or swell when they are unpacked (S36, S37), through all four doors. */

const isRoot = process.getuid?.() === 0
const mebibyte = 1 << 20
const layers: readonly Door[] = ['docker', 'oci', 'import']

describe.skipIf(!isRoot)('a tar that swells or is damaged', () => {
  let hostile: HostileBench

  beforeAll(async () => {
    hostile = await createHostileBench()
    // Threads and caches are there before memory is measured.
    for (const door of doors) await hostile.accepted(...offer(hostile, door, rawTar({ name: door })).args)
    hostile.peakMemory()
  })
  afterEach(() => hostile.expectUnharmed())
  afterAll(() => hostile[Symbol.asyncDispose]())

  /** Refused by `by` without the daemon growing, and the disk is as it was. */
  async function refusedBy(
    by: readonly Door[],
    tar: Buffer,
    message: RegExp,
    stored: Buffer = tar,
  ): Promise<void> {
    for (const door of by) {
      const before = diskUsage(hostile.bench.daemon.data)
      const memory = hostile.peakMemory()
      await hostile.refused({ message }, ...offer(hostile, door, tar, { stored }).args)
      expect(hostile.peakMemory() - memory, door).toBeLessThan(256 * mebibyte)
      await hostile.bench.expectSound()
      expect(diskUsage(hostile.bench.daemon.data) - before, door).toBeLessThan(mebibyte)
    }
  }

  describe('damage (S36)', () => {
    const first: RawEntry = { name: 'first', content: 'x'.repeat(700) }
    const size = (bytes: string) => ({ name: 'x', sizeField: Buffer.from(bytes, 'latin1') })

    test('in sizes is refused', async () => {
      for (const [what, entry] of [
        ['negative', size(`\xff${'\xff'.repeat(10)}\x00`)],
        ['beyond 2^63', size(`\x80${'\xff'.repeat(11)}`)],
        ['2^40 without content', size('\x80\0\0\0\0\0\x01\0\0\0\0\0')],
        ['no number', size('garbage!!!!!')],
        ['pax overflow', { name: 'x', pax: { size: '99999999999999999999' } }],
        ['pax negative', { name: 'x', pax: { size: '-1' } }],
        ['pax nonsense', { name: 'x', pax: { size: '0x10' } }],
      ] as const) {
        await refusedBy(doors, rawTar(first, entry), /tar|size|ends|header/i).catch((error: unknown) => {
          throw new Error(what, { cause: error })
        })
      }
    })

    test('in checksums and pax headers is refused', async () => {
      const pax = (body: string) => rawEntry({ name: 'p', type: 'x', content: Buffer.from(body, 'latin1') })
      for (const damaged of [
        rawEntry({ name: 'x', badChecksum: true }),
        rawEntry({ name: 'x', type: 'Z' }),
        pax('99 path=x\n'),
        pax('path=x\n'),
        pax('9 path\n'),
        pax(paxRecord('GNU.sparse.map', '0,1,0,1')),
      ]) {
        for (const door of layers) {
          await hostile.client(...offer(hostile, door, rawTar(first, damaged, { name: 'y' })).args)
        }
      }
      await refusedBy(doors, rawTar(first, rawEntry({ name: 'x', badChecksum: true })), /checksum|header/)
      await refusedBy(doors, rawTar(first, pax('99 path=x\n'), { name: 'y' }), /pax/)
    })

    test('at any block boundary either means what it means to Go or is refused', async () => {
      const tar = rawTar(first, { name: 'b', pax: { path: 'bb' }, content: 'b' })
      for (const door of ['import', 'docker'] as const) {
        for (let at = 512; at < tar.length; at += 512) {
          const cut = tar.subarray(0, at)
          const whole = [1536, 2560, 3584, 4096].includes(at)
          const { args } = offer(hostile, door, cut)
          if (whole) await hostile.accepted(...args)
          else await hostile.refused({ message: /tar|ends|early|archive/i }, ...args)
        }
      }
    })

    test('behind the end is kept, in several members and frames is read', async () => {
      const tar = rawTar(first)
      const half = tar.length / 2
      const skippable = Buffer.concat([Buffer.from('502a4d1804000000', 'hex'), Buffer.from('skip')])
      const zstd = (bytes: Buffer) => execFileSync('zstd', ['-cq'], { input: bytes })
      for (const [plain, stored] of [
        [Buffer.concat([tar, Buffer.from('garbage')]), undefined],
        [tar, Buffer.concat([gzipSync(tar.subarray(0, half)), gzipSync(tar.subarray(half))])],
        [tar, Buffer.concat([skippable, zstd(tar), skippable])],
        [tar, Buffer.concat([zstd(tar.subarray(0, half)), zstd(tar.subarray(half))])],
      ] as const) {
        for (const door of doors) {
          await hostile.accepted(...offer(hostile, door, plain, stored === undefined ? {} : { stored }).args)
        }
      }
    })

    test.each(['gzip', 'zstd', 'xz', 'bzip2'])('of %s data is refused, wherever it is', async (program) => {
      const tar = rawTar({
        name: 'noise',
        content: Buffer.from(Array.from({ length: 30_000 }, (_, i) => (i * 7919) % 251)),
      })
      const packed = execFileSync(program, ['-c'], { input: tar })
      const flipped = Buffer.from(packed)
      flipped[packed.length - 20] = (flipped[packed.length - 20] ?? 0) ^ 0xff
      for (const damaged of [
        packed.subarray(0, packed.length - 5),
        packed.subarray(0, packed.length / 2),
        flipped,
      ]) {
        await refusedBy(layers, tar, /damaged|ends|header|diff ID|digest/i, damaged)
        await hostile.client(...offer(hostile, 'add', tar, { stored: damaged }).args)
      }
    })
  })

  describe('bombs (S37)', () => {
    const tenGibibytes = Buffer.from('800000000000000280000000', 'hex')
    const head = rawEntry({ name: 'zeros', sizeField: tenGibibytes })
    /** The images promise a layer nobody ever gets to see whole. */
    const promised = Buffer.from('never read')

    test('10 MiB of gzip that hold 10 GiB stop', async () => {
      await refusedBy(['docker', 'add'], promised, /200 times|bomb/, gzipBomb(head, 10 * 1024))
    })

    test('1.2 MB of zstd that hold 10 GiB stop', async () => {
      await refusedBy(['oci', 'import'], promised, /200 times|bomb/, zstdBomb(head, 10 * 1024, 20))
    })

    test('a zstd frame that wants a window of 2 GiB is refused', async () => {
      await refusedBy(layers, promised, /window|memory|damaged/i, zstdBomb(head, 300, 31))
    })

    test('a bomb in a bomb is one file', async () => {
      const inner = gzipBomb(head, 1024)
      await hostile.accepted(...offer(hostile, 'add', rawTar({ name: 'inner.tar.gz', content: inner })).args)
    })

    test('a directory 100,000 deep is refused', async () => {
      const deep = { name: 'x', pax: { path: 'd/'.repeat(100_000) } }
      await refusedBy(doors, rawTar({ name: 'first' }, deep), /path|name|long|cannot|bytes/i)
    })

    test('200,000 attributes are refused', async () => {
      const pax = Object.fromEntries(
        Array.from({ length: 200_000 }, (_, i) => [`SCHILY.xattr.user.a${i}`, '1']),
      )
      await refusedBy(doors, rawTar({ name: 'first' }, { name: 'x', pax }), /attribute|pax|header/i)
    })

    test('20,000 empty files fit into memory', async () => {
      const files = Array.from({ length: 20_000 }, (_, i): RawEntry => ({ name: `d${i % 100}/f${i}` }))
      const tar = rawTar(...files)
      for (const door of ['import', 'add'] as const) {
        const memory = hostile.peakMemory()
        const { args, name } = offer(hostile, door, tar, { stored: gzipSync(tar, { level: 1 }) })
        await hostile.accepted(...args)
        expect(hostile.peakMemory() - memory, door).toBeLessThan(256 * mebibyte)
        await hostile.accepted('ctr-img', 'rm', name)
      }
    })
  })
})
