import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { MNT_DETACH, MNT_FORCE, mount, umount2 } from '../../packages/builder-daemon/src/system/processes.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { bundleEntry } from '../support/bundled-worker.js'
import type { UserCall, UserCallEnd } from '../support/calls-as-user.js'
import { eventually } from '../support/daemon-bench.js'
import { createRightsBench, type RightsBench, type TestUser, userCall } from '../support/rights-bench.js'

/** A user whose files never answer delays himself only. */

const isRoot = process.getuid?.() === 0
const canMount = isRoot && existsSync('/dev/fuse')
/**
 * How long calls of the hostile user would last, milliseconds, and how long others may take meanwhile; when they are
 * done, he gives up.
 */
const hanging = 30_000
const usual = 12_000

/** Identity helpers of a daemon that are this user. */
function helpersOf(daemon: number, uid: number): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const status = readFileSync(`/proc/${pid}/status`, 'latin1')
        return new RegExp(`^PPid:\\t${daemon}$`, 'm').test(status) && status.includes(`Uid:\t${uid}\t`)
      } catch {
        return false
      }
    })
}

describe.skipIf(!isRoot)('a user whose files never answer', () => {
  let rights: RightsBench
  let alice: TestUser
  let bob: TestUser

  beforeAll(async () => {
    rights = await createRightsBench()
    alice = rights.alice
    bob = rights.bob
  })
  afterEach(() => rights.expectUnharmed())
  afterAll(() => rights?.[Symbol.asyncDispose]())

  const control = (request: object): readonly UserCall[] => {
    const buildID = rights.fresh('hang')
    const build = { buildType: 'ctr-img', fileContent: 'FROM base:1\n', ...request, buildID }
    const options = { patience: hanging }
    return [
      userCall(controlService.Build, [build], options),
      userCall(controlService.Status, [{ buildID }], options),
    ]
  }

  /** Milliseconds until another user and root have built, loaded and saved something. */
  async function othersWork(): Promise<number> {
    const began = performance.now()
    const file = `FROM base:1\nCOPY f /f\nRUN echo ${rights.fresh('x')} > /g\nCOPY f /h\n`
    const mine = rights.context(bob, file, { f: rights.fresh('content') })
    const saved = join(bob.home, `${rights.fresh('saved')}.tar`)
    await Promise.all([
      rights.accepted(bob, 'ctr-img', 'build', mine),
      rights.accepted(bob, 'ctr-img', 'save', 'base:1', '-o', saved),
      rights.bench.image('build', rights.bench.context(file.replaceAll('COPY f', 'COPY Dockerfile'))),
      rights.bench.image('import', rights.bench.baseTar, `${rights.fresh('imported')}:1`),
    ])
    await rights.accepted(bob, 'ctr-img', 'load', '-i', saved)
    return performance.now() - began
  }

  /** How these calls end, during which others work as ever. */
  async function hangMeanwhile(calls: readonly UserCall[]): Promise<readonly UserCallEnd[]> {
    const giveUp = new AbortController()
    const ends = rights.calls(alice, calls, giveUp.signal)
    try {
      await sleep(1500)
      expect(await othersWork()).toBeLessThan(usual)
    } finally {
      giveUp.abort()
    }
    return await ends
  }

  describe.skipIf(!canMount)('on a FUSE mount (needs /dev/fuse)', () => {
    let mounted: string
    let device: number
    let server: Worker

    beforeAll(async () => {
      mounted = join(rights.work, 'fuse')
      mkdirSync(mounted)
      device = openSync('/dev/fuse', 'r+')
      const options = `fd=${device},rootmode=40000,user_id=${alice.uid},group_id=${alice.gid},allow_other`
      mount('test', mounted, 'fuse', 0, options)
      server = new Worker(await bundleEntry('test/support/fuse-server.ts'), { workerData: { fd: device } })
    })
    afterAll(async () => {
      umount2(mounted, MNT_FORCE | MNT_DETACH)
      await server.terminate()
      closeSync(device)
    })

    test('builds from there what answers', async () => {
      const built = await rights.control(alice, {
        ...{ contextDir: mounted, fileContent: 'FROM base:1\nCOPY file /f\nRUN head -c 5 /f\n' },
      })
      expect(built).toMatchObject({ code: 0, details: '' })
      expect(built.log).toContain('fuse!')
    })

    test.each(['copies that hang', 'paths that hang'])('delays nobody else by %s', async (kind) => {
      const options = { patience: hanging }
      const ignoring = rights.context(alice, 'FROM base:1\nCOPY . /\n', {})
      symlinkSync(join(mounted, 'hang'), join(ignoring, '.dockerignore'))
      const stuck = join(mounted, 'stuck')
      const calls =
        kind === 'copies that hang'
          ? [
              ...Array.from({ length: 10 }, (_, i) =>
                control({
                  contextDir: mounted,
                  fileContent: `FROM base:1\nRUN echo ${i}\nCOPY hang /h${i}\n`,
                }),
              ).flat(),
              ...Array.from({ length: 6 }, () =>
                control({ contextDir: ignoring, fileContent: 'FROM base:1\nCOPY . /\n' }),
              ).flat(),
              ...Array.from({ length: 6 }, () =>
                userCall(controlService.Load, [{ path: join(mounted, 'hang') }], options),
              ),
              ...Array.from({ length: 6 }, () =>
                userCall(controlService.Import, [{ source: join(mounted, 'hang') }], options),
              ),
              ...Array.from({ length: 6 }, () =>
                userCall(
                  controlService.Save,
                  [
                    {
                      images: ['base:1'],
                      sep: {
                        base: 'base:1',
                        dest: join(alice.home, 's'),
                        rename: join(mounted, 'hang'),
                        enabled: true,
                      },
                    },
                  ],
                  options,
                ),
              ),
            ]
          : [
              ...control({ contextDir: stuck, fileContent: 'FROM base:1\nCOPY . /\n' }),
              ...control({ contextDir: alice.home, iidfile: join(stuck, 'id') }),
              ...control({ contextDir: alice.home, output: `docker-archive:${join(stuck, 'out')}` }),
              userCall(controlService.Load, [{ path: stuck }], options),
              userCall(controlService.Save, [{ images: ['base:1'], path: join(stuck, 'x') }], options),
              ...[1n, 2n].map((ino) =>
                userCall(
                  builderService.Build,
                  [
                    {
                      payload: {
                        case: 'options',
                        value: {
                          dockerfile: { name: 'Dockerfile', content: Buffer.from('FROM base:1\nCOPY . /\n') },
                          context: {
                            source: { case: 'directory', value: { path: stuck, dev: 1n, inode: ino } },
                          },
                        },
                      },
                    },
                  ],
                  { ...options, end: false },
                ),
              ),
            ]
      for (const [index, end] of (await hangMeanwhile(calls)).entries()) {
        // A Status may end before its own patience does, and well: when its build was given up.
        if (calls[index]?.path !== controlService.Status.path) expect(end).not.toMatchObject({ code: 0 })
      }
      // And the user himself, as soon as he has given up.
      const own = rights.context(alice, 'FROM base:1\nCOPY f /f\n', { f: 'x' })
      const retried = await eventually(
        () => rights.control(alice, { contextDir: own, fileContent: 'FROM base:1\nCOPY f /f\n' }),
        ({ code }) => code === 0,
        15_000,
      )
      expect(retried).toMatchObject({ code: 0 })
    })
  })

  test('whose helper is stopped delays nobody else', async () => {
    const own = rights.context(alice, 'FROM base:1\nCOPY f /f\n', { f: 'x' })
    await rights.accepted(alice, 'ctr-img', 'build', own)
    const daemon = rights.bench.daemon.child?.pid ?? 0
    const helpers = helpersOf(daemon, alice.uid)
    expect(helpers.length).toBe(1)
    for (const pid of helpers) process.kill(pid, 'SIGSTOP')
    const calls = Array.from({ length: 8 }, () =>
      control({ contextDir: own, fileContent: 'FROM base:1\nCOPY f /f\n' }),
    ).flat()
    await hangMeanwhile(calls)
    await eventually(
      () => helpersOf(daemon, alice.uid).filter((pid) => helpers.includes(pid)),
      (left) => left.length === 0,
      10_000,
    )
    await rights.accepted(alice, 'ctr-img', 'build', '--no-cache', own)
  })
})
