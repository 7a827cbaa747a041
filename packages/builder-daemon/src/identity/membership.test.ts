import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Caller } from '../ports/caller.js'
import type { Logger } from '../ports/logger.js'
import { createMembership, type GroupMembership, type MembershipOptions } from './membership.js'
import type { NameService } from './name-service.js'

const socketGroup = 990
let directory = ''
let membership: GroupMembership | undefined
let warnings: unknown[] = []
const log: Logger = {
  ...{ debug: () => undefined, info: () => undefined, error: () => undefined },
  warn: (event, fields) => warnings.push([event, fields]),
}

/** As an editor of accounts leaves a file: another one in its place. */
function put(name: string, text: string): void {
  writeFileSync(join(directory, `${name}.new`), text)
  renameSync(join(directory, `${name}.new`), join(directory, name))
}

const passwd = 'root:x:0:0::/root:/bin/sh\nalice:x:1001:100::/:/bin/sh\nbob:x:1002:990::/:/bin/sh\n'
const group = 'root:x:0:\nusers:x:100:\nisula:x:990:alice\npayroll:x:991:alice,bob\n'

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-members-'))
  put('passwd', passwd)
  put('group', group)
  warnings = []
})
afterEach(() => {
  membership?.[Symbol.dispose]()
  membership = undefined
  rmSync(directory, { recursive: true, force: true })
})

const nobody: NameService = { groupsOf: async () => [], nameOf: async () => undefined }

function start(names: NameService = nobody, options: Partial<MembershipOptions> = {}): GroupMembership {
  membership = createMembership({
    ...{ passwd: join(directory, 'passwd'), group: join(directory, 'group'), log, names, ...options },
  })
  return membership
}

const caller = (uid: number, gid: number, ...groups: readonly number[]): Caller => ({
  ...{ uid, gid, groups, pid: 1, sameMountNamespace: true },
})
const alice = caller(1001, 100, 100, 990, 991)
const denied = (message: RegExp) => ({
  code: 'ISB_PERMISSION_DENIED',
  message: expect.stringMatching(message),
})

test('a caller keeps what the kernel saw while the files stay as they are', async () => {
  const members = start()
  expect(await members.admit(alice, socketGroup)).toBe(alice)
  expect(await members.current(alice)).toBe(alice)
})

test('whom the files took out of the group of the socket is refused, at once and on every connection', async () => {
  const members = start()
  await members.admit(alice, socketGroup)
  put('group', group.replace('990:alice', '990:'))
  for (let again = 0; again < 2; again++) {
    await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(
      denied(/^uid 1001 is no longer a member of the group isula$/),
    )
  }
  expect(await members.current(alice)).toMatchObject({ groups: [100, 991] })
  put('group', group)
  expect(await members.admit(alice, socketGroup)).toBe(alice)
})

test('who is put out before his first call is refused', async () => {
  const members = start()
  put('group', group.replace('990:alice', '990:'))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
})

test('other groups that were lost are taken off, and nothing is added', async () => {
  const members = start()
  put('group', `${group.replace('991:alice,bob', '991:bob')}more:x:992:alice\n`)
  expect(await members.admit(alice, socketGroup)).toEqual({ ...alice, groups: [100, 990] })
  // What the kernel gave to a process beyond the files is not theirs to take.
  const wide = caller(1001, 100, 990, 991, 4321)
  expect(await members.admit(wide, socketGroup)).toEqual({ ...wide, groups: [990, 4321] })
})

test('root, and whose primary group it is, stay', async () => {
  const members = start()
  const bob = caller(1002, 990, 990)
  const root = caller(0, 0, 0, 990)
  put('group', 'root:x:0:\nusers:x:100:\n')
  expect(await members.admit(bob, socketGroup)).toBe(bob)
  expect(await members.admit(root, socketGroup)).toBe(root)
  put('passwd', passwd.replace('1002:990', '1002:100'))
  await expect(members.admit(bob, socketGroup)).rejects.toMatchObject(denied(/isula/))
})

test('a process that runs as a group it lost is told so', async () => {
  const members = start()
  const switched = caller(1001, 991, 100, 990)
  expect(await members.admit(switched, socketGroup)).toBe(switched)
  put('group', group.replace('991:alice,bob', '991:bob'))
  for (const call of [members.admit(switched, socketGroup), members.current(switched)]) {
    await expect(call).rejects.toMatchObject({
      ...denied(/the group payroll, as which the client runs/),
      hint: 'Log in again.',
    })
  }
})

test('whom the files never knew they cannot lock out', async () => {
  const members = start({ groupsOf: () => expect.unreachable(), nameOf: () => expect.unreachable() })
  const stranger = caller(70_001, 70_000, 990)
  const granted = caller(1002, 990, 991, 4321)
  put('group', 'root:x:0:\nusers:x:100:\nisula:x:990:alice\npayroll:x:991:alice,bob\nnew:x:4321:\n')
  expect(await members.admit(stranger, socketGroup)).toBe(stranger)
  expect(await members.admit(granted, socketGroup)).toBe(granted)
})

test('a user who is deleted loses everything, and his number takes nothing from the next one', async () => {
  const members = start({ ...nobody, groupsOf: async (name) => (name === 'carol' ? [100] : []) })
  put('passwd', passwd.replace(/alice.*\n/, ''))
  put('group', group.replaceAll('alice', ''))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
  await expect(members.current(alice)).rejects.toMatchObject(denied(/users/))
  put('passwd', passwd.replace('alice', 'carol'))
  put('group', group.replaceAll('alice', 'carol'))
  expect(await members.admit(alice, socketGroup)).toBe(alice)
})

test('a name that was given to another number does not help the old one', async () => {
  const members = start()
  put('passwd', passwd.replace('alice:x:1001', 'alice:x:1009'))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
  const moved = caller(1009, 100, 990)
  expect(await members.admit(moved, socketGroup)).toBe(moved)
})

test('several names of one number count together', async () => {
  put('passwd', `${passwd}alicia:x:1001:100::/:/bin/sh\n`)
  put('group', group.replace('990:alice', '990:alice,alicia'))
  const members = start()
  put('group', group.replace('990:alice', '990:alicia'))
  expect(await members.admit(alice, socketGroup)).toBe(alice)
  put('group', group.replace('990:alice', '990:'))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
})

test('another source that grants the group still counts, and is asked once', async () => {
  const groupsOf = vi.fn(async () => [100, 990])
  const members = start({ ...nobody, groupsOf })
  put('group', group.replace('990:alice', '990:').replace('991:alice,bob', '991:bob'))
  for (let again = 0; again < 3; again++) {
    expect(await members.admit(alice, socketGroup)).toEqual({ ...alice, groups: [100, 990] })
  }
  expect(groupsOf.mock.calls).toEqual([['alice']])
  put('group', group.replace('990:alice', '990:bob').replace('991:alice,bob', '991:'))
  await members.admit(alice, socketGroup)
  expect(groupsOf).toHaveBeenCalledTimes(2)
})

test('no answer is a no, and is told', async () => {
  const members = start({ ...nobody, groupsOf: () => Promise.reject(new Error('timed out')) })
  put('group', group.replace('990:alice', '990:'))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
  expect(warnings).toEqual([['membership.unknown', { error: new Error('timed out') }]])
})

test('a user of another source whom the files list by name loses what they gave him', async () => {
  const nameOf = vi.fn(async (uid: number) => (uid === 70_001 ? 'dora' : undefined))
  put('group', group.replace('990:alice', '990:alice,dora'))
  const members = start({ ...nobody, nameOf })
  const dora = caller(70_001, 70_000, 990)
  expect(await members.admit(dora, socketGroup)).toBe(dora)
  expect(nameOf).not.toHaveBeenCalled()
  put('group', group)
  await expect(members.admit(dora, socketGroup)).rejects.toMatchObject(denied(/isula/))
  const other = caller(70_002, 70_000, 990)
  expect(await members.admit(other, socketGroup)).toBe(other)
})

test('a file that is written in place, within one tick of its clock and to the same size, is read again', async () => {
  const members = start()
  const path = join(directory, 'group')
  for (let round = 0; round < 20; round++) {
    writeFileSync(path, group.replace('990:alice', '990:carol'))
    await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
    writeFileSync(path, group)
    expect(await members.admit(alice, socketGroup)).toBe(alice)
  }
})

test('a file that cannot be read takes nothing and gives nothing', async () => {
  const members = start()
  put('group', group.replace('990:alice', '990:'))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
  rmSync(join(directory, 'group'))
  mkdirSync(join(directory, 'group'))
  await expect(members.admit(alice, socketGroup)).rejects.toMatchObject(denied(/isula/))
  expect(await members.admit(caller(1002, 990, 991), socketGroup)).toMatchObject({ groups: [991] })
  expect(warnings).toHaveLength(1)
})

test('losses are told once, also without a call, and again when they come again', async () => {
  const told: unknown[] = []
  const members = start(nobody, { pollMs: 20 })
  members.onLoss((uid, gids) => told.push([uid, [...gids].sort()]))
  put('group', group.replace('990:alice', '990:').replace('991:alice,bob', '991:'))
  for (let round = 0; told.length < 2 && round < 200; round++) await sleep(10)
  await sleep(200)
  expect(told).toEqual([
    [1001, [990, 991]],
    [1002, [991]],
  ])
  put('group', group)
  await sleep(200)
  put('group', group.replace('990:alice', '990:'))
  for (let round = 0; told.length < 3 && round < 200; round++) await sleep(10)
  expect(told.at(-1)).toEqual([1001, [990]])
})

test('lines that are no entry are passed over', async () => {
  put(
    'passwd',
    `# comment\n\n+@netgroup:x:1:1\n-x\n:::\nalice\nalice:x:-1:5\nmany:x:4294967295:1:\n${passwd}`,
  )
  put('group', `+\n\nbroken\nodd:x:x:alice\nspaced:x:993: alice , bob,,\n${group}`)
  const members = start()
  put('group', group)
  expect(await members.admit(caller(1001, 100, 990, 993), socketGroup)).toMatchObject({ groups: [990] })
})

test('the name service of this machine knows root and nobody else of that name', async () => {
  const { nameService } = await import('./name-service.js')
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((one) => one.startsWith('daemon:'))
  const [, , uid, gid] = line?.split(':') ?? []
  expect(await nameService.nameOf(Number(uid))).toBe('daemon')
  expect(await nameService.groupsOf('daemon')).toContain(Number(gid))
  expect(await nameService.nameOf(3_999_999_999)).toBe(undefined)
  expect(await nameService.groupsOf('no-such-user-here')).toEqual([])
  expect(await nameService.groupsOf('--version')).toEqual([])
})
