import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Encodable, MessageType } from '../../packages/shared/src/rpc/codec.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import type { Method } from '../../packages/shared/src/rpc/service.js'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { auditLines } from '../support/audit-lines.js'
import { bundleEntry } from '../support/bundled-worker.js'
import { eventually } from '../support/daemon-bench.js'
import { processesUsing } from '../support/daemon-leftovers.js'
import type { HeldCall, HeldEnd } from '../support/held-connection.js'
import { createPrivateAccounts, inNamespaceOf, type PrivateAccounts } from '../support/private-accounts.js'

/** Membership that ends while its holder is connected (MU9). */

const isRoot = process.getuid?.() === 0
const permissionDenied = 7
const builders = 54_321
const payroll = 54_322

type AnyMessage = MessageType<unknown, unknown>

/** One connection of one user, for as long as the test wants. */
interface Held {
  call<Req extends AnyMessage>(
    method: Method<Req, AnyMessage, false, boolean>,
    request: Encodable<Req>,
  ): Promise<HeldEnd>
  close(): Promise<void>
}

interface Connecting {
  readonly uid: number
  readonly gid: number
  readonly groups: readonly number[]
}

const alice = { uid: 12_345, gid: 12_345, groups: [12_345, builders, payroll] }
/** His primary group is that of the socket. */
const bob = { uid: 12_346, gid: builders, groups: [builders] }
/** Of another source than the files. */
const carol = { uid: 12_350, gid: 12_350, groups: [builders, payroll] }

describe.skipIf(!isRoot)('a member of the group of the socket', () => {
  let accounts: PrivateAccounts
  let daemon: TestDaemon
  let caller: string
  let pid: number
  const held: Held[] = []

  beforeAll(async () => {
    accounts = createPrivateAccounts(
      ['alice:x:12345:12345::/nonexistent:/bin/sh', `bob:x:12346:${builders}::/nonexistent:/bin/sh`],
      [`builders:x:${builders}:alice`, `payroll:x:${payroll}:alice,bob`, 'alice:x:12345:'],
    )
    caller = fileURLToPath(await bundleEntry('test/support/held-connection.ts'))
    daemon = await startDaemon({ group: 'builders', through: accounts.through })
    pid = daemon.child?.pid ?? 0
    chmodSync(daemon.directory, 0o711)
    expect(statSync(daemon.socket).gid).toBe(builders)
  })
  afterAll(async () => {
    for (const one of held) await one.close()
    try {
      if (daemon === undefined) return
      await daemon.kill('SIGTERM')
      expect(readFileSync(daemon.log, 'utf8')).not.toMatch(/unhandled|uncaught|ISB_INTERNAL|"level":(50|60)/i)
      const left = () => processesUsing(daemon.directory)
      expect(await eventually(left, (pids) => pids.length === 0)).toEqual([])
    } finally {
      if (daemon !== undefined) rmSync(daemon.directory, { recursive: true, force: true })
      accounts?.[Symbol.dispose]()
    }
  })

  function connect({ uid, gid, groups }: Connecting): Held {
    const child: ChildProcess = spawn(
      'nsenter',
      [
        ...[`--mount=/proc/${pid}/ns/mnt`, process.execPath, caller, daemon.socket],
        ...[String(uid), String(gid), groups.join()],
      ],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    )
    const { stdin, stdout } = child
    if (stdin === null || stdout === null) throw new Error('the client has no pipes')
    const lines: Interface = createInterface({ input: stdout })
    const answers = lines[Symbol.asyncIterator]()
    const over = new Promise<void>((resolve) => child.once('close', () => resolve()))
    const one: Held = {
      async call(method, request) {
        const call: HeldCall = {
          path: method.path,
          kind: method.responseStream ? 'stream' : 'unary',
          request: method.requestSerialize(request).toString('hex'),
        }
        stdin.write(`${JSON.stringify(call)}\n`)
        const { value, done } = await answers.next()
        if (done === true) throw new Error('the client ended')
        return JSON.parse(value) as HeldEnd
      },
      async close() {
        stdin.end()
        await over
      },
    }
    held.push(one)
    return one
  }

  const list = (one: Held): Promise<HeldEnd> => one.call(controlService.List, {})

  /** Processes of a user that have this group. */
  const holders = (uid: number, group: number): readonly string[] =>
    readdirSync('/proc').filter((name) => {
      if (!/^[0-9]+$/.test(name) || name === String(process.pid)) return false
      try {
        const status = readFileSync(`/proc/${name}/status`, 'latin1')
        const command = readFileSync(`/proc/${name}/cmdline`, 'latin1')
        const groups = /^Groups:\s*(.*)$/m.exec(status)?.[1]?.trim().split(/\s+/) ?? []
        const isHelper = command.startsWith('isula-builder-identity')
        return (
          isHelper && new RegExp(`^Uid:\\s+${uid}\\s`, 'm').test(status) && groups.includes(String(group))
        )
      } catch {
        return false
      }
    })

  test('is refused at his next request when he is taken out of it, and let in again when he is put back', async () => {
    const [ofAlice, ofBob, ofCarol] = [connect(alice), connect(bob), connect(carol)]
    for (const one of [ofAlice, ofBob, ofCarol]) expect(await list(one)).toMatchObject({ code: 0 })

    inNamespaceOf(pid, 'gpasswd', '--delete', 'alice', 'builders')
    const refused = {
      code: permissionDenied,
      details: 'uid 12345 is no longer a member of the group builders',
    }
    expect(await list(ofAlice)).toMatchObject(refused)
    expect(await ofAlice.call(controlService.HealthCheck, {})).toMatchObject(refused)
    expect(await ofAlice.call(controlService.Remove, { imageID: ['app:1'] })).toMatchObject(refused)
    // Her login session still has the group, so the kernel lets her connect again.
    const again = connect(alice)
    expect(await list(again)).toMatchObject(refused)
    for (const one of [ofBob, ofCarol]) expect(await list(one)).toMatchObject({ code: 0 })
    expect(daemon.image(['images']).status).toBe(0)

    const denied = await eventually(
      () => auditLines(join(daemon.data, 'audit.log')).filter(({ uid }) => uid === alice.uid),
      (found) => found.length >= 4,
    )
    expect(denied).toMatchObject([
      { method: 'List', outcome: 'ISB_PERMISSION_DENIED' },
      { method: 'HealthCheck', outcome: 'ISB_PERMISSION_DENIED' },
      { method: 'Remove', outcome: 'ISB_PERMISSION_DENIED', images: ['app:1'] },
      { method: 'List', outcome: 'ISB_PERMISSION_DENIED' },
    ])
    expect(new Set(denied.map(({ connection }) => connection)).size).toBe(2)

    inNamespaceOf(pid, 'gpasswd', '--add', 'alice', 'builders')
    for (const one of [ofAlice, again]) expect(await list(one)).toMatchObject({ code: 0 })
  })

  test('loses the files of another group with it, and the helper that had it', async () => {
    const shared = join(daemon.directory, 'payroll')
    mkdirSync(shared)
    chownSync(shared, 0, payroll)
    chmodSync(shared, 0o750)
    const source = join(shared, 'root.tar')
    execFileSync('tar', ['-cf', source, '-C', daemon.directory, 'etc/policy.json'])
    chownSync(source, 0, payroll)
    chmodSync(source, 0o640)
    const ofAlice = connect(alice)
    const ofCarol = connect(carol)
    const load = (one: Held, reference: string) => one.call(controlService.Import, { source, reference })
    expect(await load(ofAlice, 'alice/one:1')).toMatchObject({ code: 0 })
    expect(await load(ofCarol, 'carol/one:1')).toMatchObject({ code: 0 })
    expect(holders(alice.uid, payroll)).toHaveLength(1)

    inNamespaceOf(pid, 'gpasswd', '--delete', 'alice', 'payroll')
    expect(await list(ofAlice)).toMatchObject({ code: 0 })
    expect(
      await eventually(
        () => holders(alice.uid, payroll),
        (pids) => pids.length === 0,
      ),
    ).toEqual([])
    expect(await load(ofAlice, 'alice/two:1')).toMatchObject({
      code: permissionDenied,
      details: expect.stringMatching(/root\.tar: permission denied$/),
    })
    expect(holders(alice.uid, builders)).toHaveLength(1)
    expect(holders(alice.uid, payroll)).toEqual([])
    expect(await load(ofCarol, 'carol/two:1')).toMatchObject({ code: 0 })
    expect(holders(carol.uid, payroll)).toHaveLength(1)

    inNamespaceOf(pid, 'gpasswd', '--add', 'alice', 'payroll')
    expect(await load(ofAlice, 'alice/two:1')).toMatchObject({ code: 0 })
  })

  test('who is deleted from the machine is refused', async () => {
    const ofBob = connect(bob)
    expect(await list(ofBob)).toMatchObject({ code: 0 })
    accounts.edit('passwd', (text) => text.replace(/^bob:.*\n/m, ''))
    accounts.edit('group', (text) => text.replace('alice,bob', 'alice'))
    expect(await list(ofBob)).toMatchObject({
      code: permissionDenied,
      details: 'uid 12346 is no longer a member of the group builders',
    })
  })
})
