import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createCallerFiles } from '../../packages/builder-daemon/src/identity/caller-files.js'
import type { Caller, CallerFiles } from '../../packages/builder-daemon/src/ports/caller.js'
import { bundleEntry } from '../support/bundled-worker.js'
import { silentLogger } from '../support/silent-logger.js'

const isRoot = process.getuid?.() === 0

function caller(uid: number): Caller {
  return { uid, gid: uid, groups: [], pid: 1, sameMountNamespace: true }
}
const root = caller(0)
const user = caller(12345)

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    if (isBuilderError(error)) return error.code
    throw error
  }
  return 'succeeded'
}

function helperPids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/cmdline`, 'latin1').startsWith('isula-builder-identity') &&
          readFileSync(`/proc/${pid}/stat`, 'latin1').split(' ')[3] === String(process.pid)
        )
      } catch {
        return false
      }
    })
    .map(Number)
}

describe.skipIf(!isRoot)('the files of a caller (needs root)', () => {
  let entry: string
  let directory: string
  let files: CallerFiles & AsyncDisposable

  beforeAll(async () => {
    entry = fileURLToPath(await bundleEntry('packages/builder-daemon/src/workers/identity-helper.ts'))
    directory = mkdtempSync(join(tmpdir(), 'caller-files-'))
    chmodSync(directory, 0o755)
    files = createCallerFiles({ helperEntry: entry, log: silentLogger, idleMs: 60_000 })
  })
  afterAll(async () => {
    await files[Symbol.asyncDispose]()
    rmSync(directory, { recursive: true, force: true })
    expect(helperPids()).toEqual([])
  })

  function own(name: string, uid: number): string {
    const path = join(directory, name)
    mkdirSync(path)
    chownSync(path, uid, uid)
    return path
  }

  for (const who of [root, user]) {
    const name = who.uid === 0 ? 'root' : 'another user'

    test(`${name} reads, creates, replaces and removes files of his`, async () => {
      const home = own(`home-${who.uid}`, who.uid)
      const path = join(home, 'out.tar')
      const created = await files.create(who, path, 0o666)
      writeSync(created.fd, 'content')
      closeSync(created.fd)
      expect(statSync(path)).toMatchObject({ uid: who.uid, gid: who.uid, mode: 0o100644, size: 7 })
      expect(await codeOf(files.create(who, path, 0o644))).toBe('ISB_ALREADY_EXISTS')

      const opened = await files.openRead(who, path)
      expect(opened.size).toBe(7)
      expect(readFileSync(opened.fd, 'utf8')).toBe('content')
      expect(fstatSync(opened.fd, { bigint: true })).toMatchObject({ dev: created.dev, ino: created.ino })
      closeSync(opened.fd)

      await files.replace(who, path, Buffer.from('new'), 0o644)
      expect(readFileSync(path, 'utf8')).toBe('new')
      await files.replace(who, join(home, 'iid'), Buffer.from([0xff, 0]), 0o644)
      expect(readFileSync(join(home, 'iid'))).toEqual(Buffer.from([0xff, 0]))

      await files.removeCreated(who, path, created)
      expect(existsSync(path)).toBe(false)
      await files.createDirectory(who, join(home, 'sub'), 0o777)
      expect(statSync(join(home, 'sub'))).toMatchObject({ uid: who.uid, mode: 0o40755 })
      expect(await codeOf(files.createDirectory(who, join(home, 'sub'), 0o777))).toBe('ISB_ALREADY_EXISTS')
    })

    test(`${name} exchanges a file whole, also over what a crash left`, async () => {
      const home = own(`exchanged-${who.uid}`, who.uid)
      const path = join(home, 'index')
      await files.exchange(who, path, Buffer.from('old'), 0o666)
      const before = openSync(path, 'r')
      writeFileSync(join(home, '.index.new'), 'torn')
      await files.exchange(who, path, Buffer.from('new'), 0o644)
      // Whoever had it open reads on in what it was.
      expect(readFileSync(before, 'utf8')).toBe('old')
      closeSync(before)
      expect(readFileSync(path, 'utf8')).toBe('new')
      expect(statSync(path)).toMatchObject({ uid: who.uid, mode: 0o100644 })
      expect(readdirSync(home)).toEqual(['index'])
      mkdirSync(join(home, 'directory'))
      const over = files.exchange(who, join(home, 'directory'), Buffer.from('x'), 0o644)
      expect(await codeOf(over)).toBe('ISB_ARGUMENT_INVALID')
      expect(readdirSync(home).sort()).toEqual(['directory', 'index'])
    })

    test(`whoever reads what ${name} exchanges sees one content or the other`, async () => {
      const path = join(own(`read-${who.uid}`, who.uid), 'index')
      const contents = ['a', 'b'].map((letter) => letter.repeat(60_000))
      let isOver = false
      const exchanging = (async () => {
        for (let round = 0; round < 40; round++) {
          await files.exchange(who, path, Buffer.from(contents[round % 2] ?? ''), 0o644)
        }
      })().finally(() => {
        isOver = true
      })
      let reads = 0
      while (!isOver) {
        if (existsSync(path)) {
          expect(contents.includes(readFileSync(path, 'latin1'))).toBe(true)
          reads += 1
        }
        await new Promise((resolve) => setImmediate(resolve))
      }
      await exchanging
      expect(reads).toBeGreaterThan(10)
    })

    test(`a file that took the place of what ${name} created is not removed`, async () => {
      const path = join(own(`replaced-${who.uid}`, who.uid), 'file')
      const created = await files.create(who, path, 0o644)
      rmSync(path)
      writeFileSync(path, 'of somebody else')
      closeSync(created.fd)
      await expect(files.removeCreated(who, path, created)).rejects.toThrow(/replaced/)
      expect(readFileSync(path, 'utf8')).toBe('of somebody else')
    })

    test(`${name} creates a file only in the directory he sees, and learns what he opened`, async () => {
      const home = own(`seen-${who.uid}`, who.uid)
      const { dev, ino } = statSync(home, { bigint: true })
      await using context = await files.openDirectory(who, home)
      expect(context.identity).toEqual({ dev, ino })
      const other = { parent: { dev, ino: ino + 1n } }
      const path = join(home, 'out')
      await expect(files.create(who, path, 0o644, other)).rejects.toThrow(/other files/)
      expect(existsSync(path)).toBe(false)
      closeSync((await files.create(who, path, 0o644, { parent: { dev, ino } })).fd)
    })

    test(`no path of ${name} in another mount namespace is taken for one of ours`, async () => {
      const home = own(`elsewhere-${who.uid}`, who.uid)
      const away = { ...who, sameMountNamespace: false }
      const path = join(home, 'file')
      closeSync((await files.create(who, path, 0o644)).fd)
      for (const attempt of [
        files.openRead(away, path),
        files.create(away, `${path}-2`, 0o644),
        files.replace(away, path, Buffer.from('x'), 0o644),
        files.createDirectory(away, join(home, 'new'), 0o755),
        files.openDirectory(away, home),
      ]) {
        await expect(attempt).rejects.toThrow(/other files/)
      }
      expect(readdirSync(home)).toEqual(['file'])
    })

    test(`nothing but regular files is opened for ${name}, and FIFOs keep nobody waiting`, async () => {
      const home = own(`special-${who.uid}`, who.uid)
      execFileSync('mkfifo', ['-m', '666', join(home, 'fifo')])
      execFileSync('mknod', ['-m', '666', join(home, 'device'), 'c', '1', '5'])
      mkdirSync(join(home, 'directory'))
      for (const one of ['fifo', 'device', 'directory']) {
        expect(await codeOf(files.openRead(who, join(home, one)))).toBe('ISB_ARGUMENT_INVALID')
        expect(await codeOf(files.replace(who, join(home, one), Buffer.from('x'), 0o644))).toBe(
          'ISB_ARGUMENT_INVALID',
        )
      }
      expect(await codeOf(files.openRead(who, '/dev/zero'))).toBe('ISB_ARGUMENT_INVALID')
      expect(await codeOf(files.openRead(who, join(home, 'nothing')))).toBe('ISB_PATH_NOT_FOUND')
      expect(await codeOf(files.openRead(who, 'relative'))).toBe('ISB_ARGUMENT_INVALID')
    })

    test(`files of the kernel are no files for ${name}`, async () => {
      for (const path of ['/proc/self/status', '/proc/sys/kernel/hostname', '/sys/kernel/profiling']) {
        if (!existsSync(path)) continue
        expect(await codeOf(files.openRead(who, path))).toBe('ISB_PERMISSION_DENIED')
        expect(await codeOf(files.replace(who, path, Buffer.from('x'), 0o644))).toBe('ISB_PERMISSION_DENIED')
      }
      for (const path of ['/proc', '/sys', '/proc/self']) {
        expect(await codeOf(files.openDirectory(who, path))).toBe('ISB_PERMISSION_DENIED')
      }
    })
  }

  test('another user gets nothing that only root may have', async () => {
    const secret = join(directory, 'secret')
    mkdirSync(secret, { mode: 0o700 })
    writeFileSync(join(secret, 'file'), 's')
    expect(await codeOf(files.openRead(user, '/etc/shadow'))).toBe('ISB_PERMISSION_DENIED')
    expect(await codeOf(files.openRead(user, join(secret, 'file')))).toBe('ISB_PERMISSION_DENIED')
    expect(await codeOf(files.openDirectory(user, secret))).toBe('ISB_PERMISSION_DENIED')
    expect(await codeOf(files.create(user, '/etc/isula-build-test', 0o644))).toBe('ISB_PERMISSION_DENIED')
    expect(await codeOf(files.replace(user, '/etc/passwd', Buffer.from('x'), 0o644))).toBe(
      'ISB_PERMISSION_DENIED',
    )
    expect(await codeOf(files.createDirectory(user, '/etc/isula-build-test', 0o755))).toBe(
      'ISB_PERMISSION_DENIED',
    )
    for (const path of ['/proc/1/root/etc/hostname', `/proc/${process.pid}/root/etc/passwd`]) {
      expect(await codeOf(files.openRead(user, path))).toBe('ISB_PERMISSION_DENIED')
    }
    expect(await codeOf(files.openDirectory(user, `/proc/${process.pid}/cwd`))).toBe('ISB_PERMISSION_DENIED')
    expect(await codeOf(files.openRead(user, '/proc/self/fd/3'))).toBe('ISB_ARGUMENT_INVALID')
  })

  test('supplementary groups of the caller count, those of the daemon do not', async () => {
    const path = join(directory, 'of-group')
    writeFileSync(path, 'g', { mode: 0o640 })
    chownSync(path, 0, 4242)
    chmodSync(path, 0o640)
    expect(await codeOf(files.openRead(user, path))).toBe('ISB_PERMISSION_DENIED')
    const member = { ...user, groups: [4242] }
    const opened = await files.openRead(member, path)
    closeSync(opened.fd)
  })

  test('a helper has no capability, no descriptor of the daemon, and cannot be traced by its user', async () => {
    await files.openRead(user, '/etc/hostname').then(({ fd }) => closeSync(fd))
    const pids = helperPids()
    expect(pids.length).toBeGreaterThan(0)
    for (const pid of pids) {
      const status = readFileSync(`/proc/${pid}/status`, 'latin1')
      expect(status).toMatch(/^CapPrm:\s*0+$/m)
      expect(status).toMatch(/^CapEff:\s*0+$/m)
      expect(status).toMatch(/^NoNewPrivs:\s*1$/m)
      expect(status).toMatch(/^Uid:\t12345\t12345\t12345\t12345$/m)
      expect(readFileSync(`/proc/${pid}/environ`, 'latin1')).toBe('')
      const peek = spawnSync('setpriv', [
        '--reuid=12345',
        '--regid=12345',
        '--clear-groups',
        'cat',
        `/proc/${pid}/environ`,
      ])
      expect(peek.stderr.toString()).toContain('Permission denied')
      const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
      expect(targets.filter((target) => target.startsWith('/') && target !== '/dev/null')).toEqual([])
    }
  })

  test('a link swapped in while files are opened never leads to what the user may not read', async () => {
    const home = own('race', user.uid)
    const target = join(home, 'target')
    writeFileSync(join(home, 'mine'), 'mine')
    const results = new Set<string>()
    for (let round = 0; round < 60; round += 1) {
      rmSync(target, { force: true })
      symlinkSync(round % 2 === 0 ? '/etc/shadow' : join(home, 'mine'), target)
      const pending = files.openRead(user, target)
      rmSync(target, { force: true })
      symlinkSync(round % 2 === 1 ? '/etc/shadow' : join(home, 'mine'), target)
      try {
        const { fd } = await pending
        results.add(readFileSync(fd, 'utf8'))
        closeSync(fd)
      } catch (error) {
        results.add(isBuilderError(error) ? error.code : String(error))
      }
    }
    results.delete('ISB_PERMISSION_DENIED')
    results.delete('ISB_PATH_NOT_FOUND')
    expect([...results]).toEqual(['mine'])
  })

  test('a stopped helper delays its own user only, and is replaced after a cancel', async () => {
    const other = caller(12346)
    const path = join(own('stop', user.uid), 'file')
    chmodSync(join(directory, 'stop'), 0o755)
    writeFileSync(path, 'x', { mode: 0o644 })
    const stopped = { ...user, groups: [777] }
    closeSync((await files.openRead(stopped, path)).fd)
    const pid = helperPids().find((one) =>
      readFileSync(`/proc/${one}/status`, 'latin1').match(/^Groups:\s*777\s*$/m),
    )
    expect(pid).toBeDefined()
    process.kill(pid ?? 0, 'SIGSTOP')
    const abort = new AbortController()
    const hanging = files.openRead(stopped, path, abort.signal)
    hanging.catch(() => undefined)
    closeSync((await files.openRead(other, path)).fd)
    abort.abort()
    await expect(hanging).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    await expect.poll(() => existsSync(`/proc/${pid}/exe`), { timeout: 10_000 }).toBe(false)
    closeSync((await files.openRead(stopped, path)).fd)
  })

  test('a helper without work ends', async () => {
    await using quick = createCallerFiles({ helperEntry: entry, log: silentLogger, idleMs: 50 })
    const idle = caller(23456)
    const isRunning = () =>
      helperPids().some((pid) => readFileSync(`/proc/${pid}/status`, 'latin1').includes('Uid:\t23456'))
    const context = await quick.openDirectory(idle, '/usr')
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(isRunning()).toBe(true)
    await context[Symbol.asyncDispose]()
    await expect.poll(isRunning, { timeout: 5_000 }).toBe(false)
  })

  test('a helper whose groups were lost takes no new work, and ends with the contexts it has', async () => {
    let groups: readonly number[] = [7001, 7002]
    const current = async (who: Caller): Promise<Caller> => ({ ...who, groups })
    await using mine = createCallerFiles({ helperEntry: entry, log: silentLogger, idleMs: 60_000, current })
    const member = { ...caller(23_457), groups: [7001, 7002, 7003] }
    const running = (): readonly string[] =>
      helperPids()
        .map((pid) => readFileSync(`/proc/${pid}/status`, 'latin1'))
        .filter((status) => status.includes('Uid:\t23457'))
        .map((status) => /^Groups:\s*(.*?)\s*$/m.exec(status)?.[1] ?? '')
        .sort()
    const home = own('losing', 23_457)
    const context = await mine.openDirectory(member, home)
    expect(running()).toEqual(['7001 7002'])
    // Another user's, and groups that it does not have, are no reason.
    mine.retire(23_458, new Set([7002]))
    mine.retire(23_457, new Set([7003]))
    closeSync((await mine.create(member, join(home, 'one'), 0o644)).fd)
    expect(running()).toEqual(['7001 7002'])

    groups = [7001]
    mine.retire(23_457, new Set([7002]))
    closeSync((await mine.create(member, join(home, 'two'), 0o644)).fd)
    expect(running()).toEqual(['7001', '7001 7002'])
    await context[Symbol.asyncDispose]()
    await expect.poll(running, { timeout: 5_000 }).toEqual(['7001'])
    // One without work ends at once.
    groups = []
    mine.retire(23_457, new Set([7001]))
    await expect.poll(running, { timeout: 5_000 }).toEqual([])
  })
})
