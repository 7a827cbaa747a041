import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  paxRecord,
  type RawEntry,
  rawEntry,
  rawTar,
} from '../../packages/builder-daemon/src/layer/test-layers.js'
import { type Door, doors, offer } from '../support/archive-doors.js'
import { createHostileBench, type HostileBench } from '../support/hostile-bench.js'

/** Entries of a tar that would read or write outside the layer, through all four doors. */

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('entries of a hostile tar', () => {
  let hostile: HostileBench

  beforeAll(async () => {
    hostile = await createHostileBench()
  })
  afterEach(() => hostile.expectUnharmed())
  afterAll(() => hostile[Symbol.asyncDispose]())

  /** What an image holds, as `find` shows it from a RUN. */
  async function listing(name: string, command = 'cd /m; find . | sort'): Promise<readonly string[]> {
    const args = hostile.buildOf(`FROM base:1\nRUN --mount=from=${name},target=/m ${command}; echo ---\n`)
    const lines = (await hostile.accepted(...args, '--no-cache')).split('\n')
    const begin = lines.findIndex((line) => line.includes('RUN --mount'))
    return lines.slice(begin + 1, lines.indexOf('---'))
  }

  /** Through every door: refused by those in `by`, else what `find` shows. */
  async function through(
    entries: readonly (RawEntry | Buffer)[],
    outcome: {
      readonly refusedBy?: readonly Door[]
      readonly message?: RegExp
      readonly holds?: readonly string[]
    },
    below: readonly Buffer[] = [],
  ): Promise<void> {
    const tar = rawTar(...entries)
    const { refusedBy = doors, message } = outcome
    for (const door of doors) {
      const { args, name } = offer(hostile, door, tar, { below: door === 'import' ? [] : below })
      if (refusedBy.includes(door)) {
        await hostile.refused(message === undefined ? {} : { message }, ...args)
      } else {
        await hostile.accepted(...args)
        if (outcome.holds !== undefined) expect(await listing(name), door).toEqual(outcome.holds)
      }
    }
  }

  const layers: readonly Door[] = ['docker', 'oci', 'import']

  describe('names (S30)', () => {
    test('above the root are refused, or stay at the root where docker clamps them', async () => {
      for (const name of ['../x', 'a/../../x', './../x', '..', hostile.climbing]) {
        await through([{ name: 'first' }, { name, pax: { path: name }, content: 'pwned' }], {
          refusedBy: layers,
          message: /leads out of the layer/,
        })
      }
    })

    test('absolute ones begin at the root of the layer', async () => {
      await through([{ name: '/abs', content: 'x' }, { name: `${hostile.canary}/new` }], {
        refusedBy: [],
      })
    })

    test('that are empty, hold NUL or have 5000 bytes are refused', async () => {
      await through([{ name: 'first' }, { name: '' }], { refusedBy: layers })
      await through([{ name: 'first' }, { name: 'x', pax: { path: 'a\0b' } }], { message: /NUL/ })
      await through([{ name: 'first' }, { name: 'x', pax: { path: 'p'.repeat(5000) } }], {
        message: /cannot be unpacked|more than|too long|ENAMETOOLONG/i,
      })
    })

    test('that are no UTF-8 keep their bytes', async () => {
      for (const door of doors) {
        const { args, name } = offer(hostile, door, rawTar({ name: 'latin\xe9' }))
        await hostile.accepted(...args)
        expect(await listing(name, 'cd /m; printf %s * | hexdump -v -e \'1/1 "%02x"\'; echo')).toEqual([
          '6c6174696ee9',
        ])
      }
    })
  })

  describe('symbolic links (S31, S33)', () => {
    test('to the host are followed inside the layer only', async () => {
      const { canary } = hostile
      const inside = canary.split('/').map((_part, i, parts) => `.${parts.slice(0, i + 1).join('/')}`)
      await through(
        [
          { name: 'd', type: '2', link: canary },
          { name: 'd/x', content: 'x' },
          { name: 'up', type: '2', pax: { linkpath: hostile.climbing } },
          { name: 'up/y', content: 'y' },
        ],
        { refusedBy: [], holds: [...inside, `.${canary}/x`, `.${canary}/y`, './d', './up'].sort() },
      )
    })

    test('in chains of 40 and in circles end', async () => {
      const chain = Array.from(
        { length: 40 },
        (_, i): RawEntry => ({
          name: `l${i}`,
          type: '2',
          link: i === 39 ? hostile.canary : `l${i + 1}`,
        }),
      )
      await through([...chain, { name: 'l0/x' }], { refusedBy: [] })
      const circle: RawEntry[] = [
        { name: 'a', type: '2', link: 'b' },
        { name: 'b', type: '2', link: 'a' },
      ]
      await through([...circle, { name: 'a/x' }], { message: /too many|symbolic link/i })
    })

    test('are replaced, not followed, by an entry of the same name, whatever its mode', async () => {
      const { canary } = hostile
      await through(
        [
          { name: 'file', type: '2', link: `${canary}/victim` },
          {
            name: 'file',
            content: 'pwned',
            mode: 0o4777,
            uid: 1,
            gid: 1,
            pax: { 'SCHILY.xattr.user.x': '1' },
          },
          { name: 'dir', type: '2', link: canary },
          { name: 'dir', type: '5', mode: 0o777, uid: 1, gid: 1 },
          { name: 'dir/x', content: 'x' },
        ],
        { refusedBy: [], holds: ['.', './dir', './dir/x', './file'] },
      )
    })

    test('of the layers below lead nowhere else either', async () => {
      const below = [rawTar({ name: 'd', type: '2', link: hostile.canary })]
      for (const door of ['docker', 'oci', 'add'] as const) {
        await hostile.accepted(...offer(hostile, door, rawTar({ name: 'd/x', content: 'x' }), { below }).args)
      }
    })
  })

  describe('hard links (S32)', () => {
    test('never link or copy what is outside', async () => {
      const { canary, climbing } = hostile
      for (const link of [`${climbing}/secret`, `${canary}/secret`, canary, 'missing', '..', '/']) {
        await through([{ name: 'first' }, { name: 'x', type: '1', pax: { linkpath: link } }], {
          message: /hard link/,
        })
      }
      const through_: RawEntry[] = [
        { name: 'd', type: '2', link: canary },
        { name: 'x', type: '1', link: 'd/secret' },
      ]
      await through(through_, { message: /hard link/ })
    })

    test('to itself or to something further on are refused', async () => {
      await through([{ name: 'first' }, { name: 'x', type: '1', link: 'x' }], { message: /hard link/ })
      await through([{ name: 'x', type: '1', link: 'later' }, { name: 'later' }], { message: /hard link/ })
    })

    test('to an absolute name of the layer, a symbolic link and a device work', async () => {
      await through(
        [
          { name: 'usr/bin/perl5.36', content: 'perl' },
          { name: 'usr/bin/perl', type: '1', link: '/usr/bin/perl5.36' },
          { name: 's', type: '2', link: `${hostile.canary}/secret` },
          { name: 't', type: '1', link: 's' },
          { name: 'n', type: '3', device: [1, 3] },
          { name: 'm', type: '1', link: 'n' },
        ],
        {
          refusedBy: [],
          holds: [
            '.',
            './m',
            './n',
            './s',
            './t',
            './usr',
            './usr/bin',
            './usr/bin/perl',
            './usr/bin/perl5.36',
          ],
        },
      )
    })
  })

  describe('deletions (S34)', () => {
    const below = [rawTar({ name: 'keep/a' }, { name: 'gone/b' }, { name: 'link', type: '2', link: '/keep' })]

    test('that mark nothing or climb are refused', async () => {
      for (const name of [
        '.wh.',
        '.wh..',
        'a/.wh...',
        '.wh.x/y',
        `${hostile.climbing}/.wh.secret`,
        '../.wh..wh..opq',
      ]) {
        await through([{ name: 'first' }, { name, pax: { path: name } }], {}, below)
      }
    })

    test('act in their own layer only', async () => {
      const top = rawTar(
        { name: 'd', type: '2', link: hostile.canary },
        { name: 'd/.wh.secret' },
        { name: 'd/.wh..wh..opq' },
        { name: '.wh.gone' },
      )
      for (const door of ['docker', 'oci'] as const) {
        const { args, name } = offer(hostile, door, top, { below })
        await hostile.accepted(...args)
        expect((await listing(name, 'ls /m')).join(' ')).toMatch(/^d keep link|^d .*keep link/)
      }
    })

    test('of the root empty it', async () => {
      for (const door of ['docker', 'oci'] as const) {
        const { args, name } = offer(hostile, door, rawTar({ name: '.wh..wh..opq' }, { name: 'new' }), {
          below,
        })
        await hostile.accepted(...args)
        expect(await listing(name)).toEqual(['.', './new'])
      }
    })
  })

  describe('special files and attributes (S35)', () => {
    test('devices and FIFOs are nodes that nobody opens, setuid and capabilities stay', async () => {
      const capability = '\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
      const entries: RawEntry[] = [
        { name: 'fifo', type: '6' },
        { name: 'block', type: '4', device: [8, 0], mode: 0o666 },
        { name: 'null', type: '3', device: [1, 3] },
        { name: 'su', content: 'x', mode: 0o4755, pax: { 'SCHILY.xattr.security.capability': capability } },
      ]
      for (const door of doors) {
        const { args, name } = offer(hostile, door, rawTar(...entries))
        await hostile.accepted(...args)
        expect(await listing(name, "cd /m; stat -c '%n %F %a' *")).toEqual([
          'block block special file 666',
          'fifo fifo 644',
          'null character special file 644',
          'su regular file 4755',
        ])
      }
    })

    test('the device that marks a deletion on disk is refused', async () => {
      await through([{ name: 'first' }, { name: 'w', type: '3', device: [0, 0] }], {
        message: /0:0|deletion/,
      })
    })

    test('attributes of the overlay do not reach the disk', async () => {
      await through(
        [
          { name: 'd', type: '5', mode: 0o755, pax: { 'SCHILY.xattr.trusted.overlay.opaque': 'y' } },
          { name: 'd/f', content: 'x', pax: { 'SCHILY.xattr.trusted.overlay.redirect': hostile.canary } },
          { name: 'e', content: 'x', pax: { 'SCHILY.xattr.user.overlay.metacopy': '' } },
        ],
        { refusedBy: [], holds: ['.', './d', './d/f', './e'] },
      )
    })

    test('sparse files cannot claim more than there is room for', async () => {
      const huge = { 'GNU.sparse.major': '0', 'GNU.sparse.minor': '1', 'GNU.sparse.size': String(2 ** 52) }
      const sparse: RawEntry = { name: 's', content: 'abc', pax: { ...huge, 'GNU.sparse.map': '0,3' } }
      await through([{ name: 'first' }, sparse], { message: /sparse|more than|too large|EFBIG|bytes/i })
    })
  })

  test('global pax headers and unknown records harm nobody', async () => {
    const global = rawEntry({ name: 'g', type: 'g', content: paxRecord('path', hostile.climbing) })
    await through([global, { name: 'x', pax: { __proto__x: '1', constructor: '2' } }], { refusedBy: [] })
  })
})
