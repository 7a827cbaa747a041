import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Caller } from '../ports/caller.js'
import { requireEngine } from './engine-rights.js'

const isRoot = process.getuid?.() === 0
let root: string
let socket: string

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'engine-rights-'))
  chmodSync(root, 0o755)
  mkdirSync(join(root, 'run'), { mode: 0o755 })
  socket = join(root, 'run/sock')
  writeFileSync(socket, '')
  symlinkSync('run', join(root, 'link'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

const caller = (uid: number, gid: number, groups: readonly number[] = []): Caller => ({
  ...{ uid, gid, groups, pid: 1, sameMountNamespace: true },
})

async function allowed(who: Caller, path = socket): Promise<boolean> {
  try {
    await requireEngine('dockerd', path, who)
    return true
  } catch (error) {
    expect(error).toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
    return false
  }
}

describe.skipIf(!isRoot)('the mode of the socket decides (needs root)', () => {
  test.each([
    [0o600, true, false, false, false],
    [0o660, true, true, true, false],
    [0o060, false, true, true, false],
    [0o606, true, false, false, true],
    [0o444, false, false, false, false],
  ])('as %o', async (mode, owner, group, supplementary, other) => {
    chownSync(socket, 70, 80)
    chmodSync(socket, mode)
    expect(await allowed(caller(70, 80))).toBe(owner)
    expect(await allowed(caller(71, 80))).toBe(group)
    expect(await allowed(caller(71, 9, [8, 80]))).toBe(supplementary)
    expect(await allowed(caller(71, 9, [8]))).toBe(other)
    expect(await allowed(caller(0, 0))).toBe(true)
  })

  test('with that of the directories above', async () => {
    chmodSync(socket, 0o666)
    expect(await allowed(caller(71, 9))).toBe(true)
    chmodSync(join(root, 'run'), 0o750)
    expect(await allowed(caller(71, 9))).toBe(false)
    expect(await allowed(caller(71, 9), join(root, 'link/sock'))).toBe(false)
    expect(await allowed(caller(71, 0))).toBe(true)
    chmodSync(join(root, 'run'), 0o755)
  })
})

test('no socket is no engine', async () => {
  const none = join(root, 'none')
  await expect(requireEngine('iSulad', none, caller(71, 9))).rejects.toMatchObject({
    code: 'ISB_ENGINE_FAILED',
    message: `iSulad at ${none} is not running`,
  })
})
