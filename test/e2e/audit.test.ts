import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { startDaemon } from '../../scripts/lib/daemon.mjs'
import { type AuditLine, auditLines } from '../support/audit-lines.js'
import { eventually } from '../support/daemon-bench.js'
import { createRightsBench, type RightsBench, type TestUser, userCall } from '../support/rights-bench.js'

/** What the audit log of the running daemon says, and what it never says (MU6, MU7, MU10). */

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('the audit log', () => {
  let rights: RightsBench
  let alice: TestUser
  let path = ''
  let seen = 0

  beforeAll(async () => {
    rights = await createRightsBench()
    alice = rights.alice
    path = join(rights.bench.data, 'audit.log')
  })
  afterEach(() => rights.expectUnharmed())
  afterAll(() => rights?.[Symbol.asyncDispose]())

  /** Lines since the last look, once there are `count` of them. */
  async function news(count: number): Promise<readonly AuditLine[]> {
    const lines = await eventually(
      () => auditLines(path).slice(seen),
      (found) => found.length >= count,
    )
    // One more would come with it.
    await sleep(50)
    const all = auditLines(path)
    seen = all.length
    expect(all.slice(-lines.length)).toEqual(lines)
    return lines
  }

  test('belongs to root alone and begins with the first call that stores something', async () => {
    expect(statSync(path)).toMatchObject({ uid: 0, gid: 0, mode: 0o100600 })
    const [imported] = await news(1)
    expect(imported).toMatchObject({
      ...{ uid: 0, service: 'isula.builder.v1.Builder', method: 'Import', outcome: 'ok' },
      ...{ images: ['base:1'], results: [expect.stringMatching(/^[0-9a-f]{64}$/)], exe: process.execPath },
    })
    expect(Math.abs(Date.parse(imported?.time ?? '') - Date.now())).toBeLessThan(60_000)
  })

  test('has a line for a build, with its ID, its names and its end, and none for what was only looked at', async () => {
    await rights.accepted(alice, 'version')
    await rights.accepted(alice, 'info')
    await rights.accepted(alice, 'ctr-img', 'images')
    const context = rights.context(alice, 'FROM base:1\nRUN --network=none echo one > /one\n')
    await rights.accepted(alice, 'ctr-img', 'build', '--network', 'none', '-t', 'alice/audited:1', context)
    const failing = rights.context(alice, 'FROM base:1\nRUN exit 3\n')
    expect(await rights.client(alice, ['ctr-img', 'build', failing])).toMatchObject({ status: 3 })
    await rights.accepted(alice, 'ctr-img', 'rm', 'alice/audited:1')
    const lines = await news(3)
    expect(lines).toMatchObject([
      {
        ...{ uid: alice.uid, gid: alice.gid, exe: process.execPath, method: 'Build', outcome: 'ok' },
        ...{ build: expect.stringMatching(/^[A-Za-z0-9]/), images: ['alice/audited:1'], network: 'none' },
        results: [expect.stringMatching(/^[0-9a-f]{64}$/)],
      },
      { method: 'Build', outcome: 'ISB_STEP_FAILED', network: 'host' },
      { method: 'Remove', outcome: 'ok', images: ['alice/audited:1'] },
    ])
    expect(lines[0]?.['ms']).toBeGreaterThan(0)
  })

  test('names who was refused a privilege, and what he asked for (MU6)', async () => {
    const context = rights.context(alice, 'FROM base:1\nRUN true\n')
    await rights.refused(alice, /not allowed for/, 'ctr-img', 'build', '--cap-add', 'CAP_SYS_ADMIN', context)
    await rights.refused(alice, /not allowed for/, 'ctr-img', 'build', '--isolation', 'chroot', context)
    await rights.call(alice, controlService.Remove, { imageID: ['base:1'] })
    const who = { uid: alice.uid, outcome: 'ISB_PERMISSION_DENIED' }
    expect(await news(3)).toMatchObject([
      { ...who, method: 'Build', caps: ['CAP_SYS_ADMIN'] },
      { ...who, method: 'Build', isolation: 'chroot' },
      { ...who, service: 'isula.build.v1.Control', method: 'Remove', images: ['base:1'] },
    ])
  })

  test('knows the caller from the kernel, whatever he says he is (MU7)', async () => {
    const forged = { uid: '0', 'x-uid': '0', gid: '0', pid: '1', authorization: 'Bearer of-bob' }
    const remove = userCall(controlService.Remove, [{ imageID: ['base:1'] }], { metadata: forged })
    const prune = userCall(builderService.Prune, [{ all: true }], {
      metadata: forged,
    })
    await rights.calls(alice, [remove, prune, remove])
    await rights.calls(rights.bob, [remove])
    const lines = await news(4)
    const ofAlice = lines.filter(({ uid }) => uid === alice.uid)
    expect(ofAlice.map(({ method }) => method).sort()).toEqual(['Prune', 'Remove', 'Remove'])
    expect(lines.map(({ method, outcome }) => [method, outcome])).toEqual(
      lines.map(({ method }) => [method, method === 'Prune' ? 'ok' : 'ISB_PERMISSION_DENIED']),
    )
    expect(new Set(ofAlice.map(({ connection }) => connection)).size).toBe(1)
    expect(lines.at(-1)).toMatchObject({ uid: rights.bob.uid })
  })

  test('records what is malformed, and no text of it forges a line (S64)', async () => {
    const raw = { ...userCall(controlService.Tag, []), requests: ['0a05ff'] }
    const name = '"}\n{"uid":0,"method":"Forged","outcome":"ok"}\r\n\x1b[2J\u009b31m'
    await rights.calls(alice, [raw])
    await rights.call(alice, controlService.Tag, { image: name, tag: name })
    await rights.call(alice, controlService.Build, { buildType: 'ctr-img', buildID: name })
    const lines = await news(3)
    expect(lines).toMatchObject([
      { uid: alice.uid, method: 'Tag', outcome: 'ISB_ARGUMENT_INVALID' },
      { uid: alice.uid, method: 'Tag', images: [name, name] },
      { uid: alice.uid, method: 'Build', outcome: 'ISB_ARGUMENT_INVALID', build: name },
    ])
    expect(readFileSync(path, 'latin1')).toMatch(/^[\n\x20-\x7e]*$/)
  })

  test('holds no value of an argument, a label, a secret, a proxy or a login (MU10)', async () => {
    const secrets = Object.fromEntries(
      ['argument', 'label', 'secret', 'proxy', 'password', 'user', 'reference', 'header', 'url'].map(
        (kind) => [kind, `planted${kind}${randomBytes(8).toString('hex')}`],
      ),
    )
    const { argument, label, secret, proxy, password, user, reference, header, url } = secrets
    const file = [
      'FROM base:1',
      'ARG TOKEN',
      `LABEL l=${label}`,
      'RUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null; echo $TOKEN > /dev/null',
    ].join('\n')
    const context = rights.context(alice, `${file}\n`, { value: `${secret}\n` })
    await rights.accepted(
      alice,
      ...['ctr-img', 'build', '-t', 'alice/planted:1', '--build-arg', `TOKEN=${argument}`],
      ...['--build-arg', `https_proxy=http://u:${proxy}@127.0.0.1:1/`],
      ...['--secret', `id=s,src=${join(context, 'value')}`, context],
    )
    const bad = `ADD http://u:${url}@127.0.0.1:9/x /x\nRUN echo $TOKEN; exit 7\n`
    await rights.control(alice, {
      ...{
        contextDir: context,
        fileContent: `FROM base:1\nARG TOKEN\n${bad}`,
        buildArgs: [`TOKEN=${argument}`],
      },
    })
    const metadata = { authorization: `Bearer ${header}` }
    await rights.calls(alice, [
      userCall(
        controlService.Login,
        [{ server: '127.0.0.1:9', username: user ?? '', password: password ?? '' }],
        {
          metadata,
        },
      ),
      userCall(controlService.Pull, [{ imageName: `https://u:${reference}@127.0.0.1:9/app:1` }], {
        metadata,
      }),
      userCall(controlService.Push, [{ imageName: `u:${reference}@127.0.0.1:9/app:1` }], { metadata }),
    ])
    const lines = await news(5)
    expect(lines.map(({ method }) => method).sort()).toEqual(['Build', 'Build', 'Login', 'Pull', 'Push'])
    expect(lines.find(({ method }) => method === 'Login')).toMatchObject({ registry: '127.0.0.1:9' })
    const text = readFileSync(path, 'latin1')
    expect(Object.entries(secrets).filter(([, value]) => text.includes(value))).toEqual([])
  })

  test('goes on in a new file when it is moved away', async () => {
    const moved = `${path}.1`
    const before = auditLines(path).length
    renameSync(path, moved)
    seen = 0
    await rights.accepted(alice, 'ctr-img', 'tag', 'base:1', 'alice/rotated:1')
    await rights.accepted(alice, 'ctr-img', 'rm', 'alice/rotated:1')
    expect(await news(2)).toMatchObject([{ method: 'Tag' }, { method: 'Remove' }])
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(auditLines(moved)).toHaveLength(before)
  })
})

describe.skipIf(!isRoot)('an audit log', () => {
  test('on a full disk fails no call and ends no daemon, is told once, and goes on when there is room', async () => {
    const work = mkdtempSync(join(tmpdir(), 'isula-audit-full-'))
    const mount = join(work, 'full')
    const directory = join(work, 'daemon')
    mkdirSync(mount)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mount])
    const path = join(mount, 'audit.log')
    const daemon = await startDaemon({ directory, start: false })
    try {
      appendFileSync(join(directory, 'etc/configuration.toml'), `\naudit_log = "${path}"\n`)
      await daemon.start()
      expect(statSync(path).mode & 0o777).toBe(0o600)
      expect(existsSync(join(daemon.data, 'audit.log'))).toBe(false)
      expect(() => {
        for (;;) appendFileSync(join(mount, 'filler'), Buffer.alloc(512))
      }).toThrow(/ENOSPC/)
      execFileSync('tar', ['-cf', join(work, 'base.tar'), '-C', directory, 'etc/policy.json'])
      const ok = (...args: readonly string[]): void => {
        const { status, stderr } = daemon.image(args)
        expect(`${status} ${stderr}`).toBe('0 ')
      }
      ok('import', join(work, 'base.tar'), 'base:1')
      for (const name of ['one:1', 'two:1', 'three:1']) ok('tag', 'base:1', name)
      await sleep(2500)
      const failures = () => readFileSync(daemon.log, 'utf8').match(/^.*"event":"audit\.failed".*$/gm) ?? []
      expect(failures()).toHaveLength(1)
      expect(failures()[0]).toContain('ENOSPC')
      expect(auditLines(path)).toEqual([])
      rmSync(join(mount, 'filler'))
      const lines = await eventually(
        () => auditLines(path),
        (found) => found.length === 4,
      )
      expect(lines.map(({ method }) => method)).toEqual(['Import', 'Tag', 'Tag', 'Tag'])
      expect(readFileSync(daemon.log, 'utf8')).toContain('audit.resumed')
      expect(await daemon.kill('SIGTERM')).toMatchObject({ code: 0 })
    } finally {
      await daemon.stop()
      execFileSync('umount', ['--lazy', mount])
      rmSync(work, { recursive: true, force: true })
    }
  })

  test('has everything when its daemon stops, and is continued by the next one', async () => {
    const daemon = await startDaemon()
    const path = join(daemon.data, 'audit.log')
    try {
      for (const round of [1, 2]) {
        for (const name of ['a:1', 'b:1', 'c:1'])
          expect(daemon.image(['tag', 'missing:1', name]).status).toBe(1)
        await daemon.kill('SIGTERM')
        const lines = auditLines(path)
        expect(lines).toHaveLength(3 * round)
        expect(new Set(lines.map(({ outcome }) => outcome))).toEqual(new Set(['ISB_IMAGE_NOT_FOUND']))
        if (round === 1) await daemon.start()
      }
    } finally {
      await daemon.stop()
    }
  })

  test('that cannot be is refused at the start', async () => {
    const daemon = await startDaemon({ start: false })
    try {
      appendFileSync(join(daemon.directory, 'etc/configuration.toml'), '\naudit_log = "/proc/no/audit.log"\n')
      await expect(daemon.start()).rejects.toThrow(
        /the audit log cannot be written: ENOENT[\s\S]*`audit_log`/,
      )
    } finally {
      rmSync(daemon.directory, { recursive: true, force: true })
    }
  })
})
