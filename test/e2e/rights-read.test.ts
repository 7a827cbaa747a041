import { execFileSync } from 'node:child_process'
import {
  chownSync,
  copyFileSync,
  lchownSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { createRightsBench, type RightsBench, type TestUser, userCall } from '../support/rights-bench.js'

/** What a member of the socket's group cannot read, the daemon does not read for him. */

const isRoot = process.getuid?.() === 0
const permissionDenied = 7
/** Refused for what it is: bad argument, absent, or not permitted. */
const refusals = [3, 5, permissionDenied]
const copyAll = 'FROM scratch\nCOPY . /all/\n'

describe.skipIf(!isRoot)('what a member of the group may read', () => {
  let rights: RightsBench
  let alice: TestUser

  beforeAll(async () => {
    rights = await createRightsBench()
    alice = rights.alice
  })
  afterEach(() => rights.expectUnharmed())
  afterAll(() => rights?.[Symbol.asyncDispose]())

  /** A build over our own service whose client says that `path` is its context, whatever that is. */
  async function buildAt(user: TestUser, path: string, dockerfile: string) {
    const content = Buffer.from(dockerfile)
    const options = {
      dockerfile: { name: 'Dockerfile', content },
      context: { source: { case: 'directory', value: { path, dev: 0n, inode: 0n } } },
    } as const
    const call = userCall(builderService.Build, [{ payload: { case: 'options', value: options } }], {
      end: false,
      patience: 20_000,
    })
    const [end] = await rights.calls(user, [call])
    if (end === undefined) throw new Error('one call, one end')
    expect(end.details).not.toContain(rights.guarded.secret)
    return end
  }

  test('a user outside the group does not reach the socket', async () => {
    const { status, stderr } = await rights.client(rights.eve, ['ctr-img', 'images'])
    expect(status).not.toBe(0)
    expect(stderr).toMatch(/permission denied|EACCES|Cannot connect/i)
    const [end] = await rights.calls(rights.eve, [userCall(builderService.Version, [{}], { patience: 3000 })])
    expect(end?.code).not.toBe(0)
  })

  test('a member builds from his own directory that nobody else may enter', async () => {
    const context = rights.context(alice, 'FROM base:1\nCOPY f /f\nRUN cat /f\n', { f: 'mine' })
    expect(await rights.accepted(alice, 'ctr-img', 'build', '-t', 'mine:1', context)).toContain('mine')
    const { code, log } = await rights.control(alice, {
      contextDir: context,
      fileContent: 'FROM base:1\nCOPY f /f\nRUN echo; cat /f\n',
    })
    expect(code).toBe(0)
    expect(log).toContain('mine')
  })

  test('nor a context, a Dockerfile, an ignore file or a secret of root through the client', async () => {
    const { open, directory } = rights.guarded
    const own = rights.context(alice, 'FROM base:1\nCOPY . /\n', { f: '' })
    const denied = /permission denied|may not read/i
    for (const place of [open, directory]) {
      await rights.refused(alice, denied, 'ctr-img', 'build', join(place, 'context'))
      await rights.refused(alice, denied, 'ctr-img', 'build', '-f', join(place, 'Dockerfile'), own)
      const secret = ['--secret', `id=s,src=${join(place, 'secret')}`]
      await rights.refused(alice, denied, 'ctr-img', 'build', ...secret, own)
      await rights.refused(alice, denied, 'ctr-img', 'load', '-i', join(place, 'archive.tar'))
      await rights.refused(alice, denied, 'ctr-img', 'import', join(place, 'archive.tar'), 'x:1')
      const named = ['--build-context', `other=${join(place, 'context')}`]
      const from = rights.context(alice, 'FROM scratch\nCOPY --from=other secret /\n')
      await rights.refused(alice, denied, 'ctr-img', 'build', ...named, from)
    }
    await rights.refused(alice, denied, 'ctr-img', 'build', '--secret', 'id=s,src=/etc/shadow', own)
    await rights.refused(alice, denied, 'ctr-img', 'build', '-f', '/etc/shadow', own)
  })

  test('nor any of them by a path in a message', async () => {
    const { open, directory } = rights.guarded
    const contexts = [open, directory].flatMap((place) => [join(place, 'context'), place])
    for (const contextDir of [...contexts, '/root', '/etc', '/var/lib', rights.bob.home]) {
      const files = contextDir === '/etc' ? 'COPY shadow /' : 'COPY . /'
      const { code, details } = await rights.control(alice, {
        contextDir,
        fileContent: `FROM scratch\n${files}\n`,
      })
      // What everybody may read of a directory is no secret, but each of these holds something that is.
      if (contextDir !== '/var/lib')
        expect({ contextDir, code, details }).toMatchObject({ code: permissionDenied })
      else expect([0, ...refusals]).toContain(code)
    }
    for (const context of contexts) {
      // The client is asked to stream what the daemon may not open for it, and never does.
      const end = await buildAt(alice, context, copyAll)
      expect(end.code).toBe(permissionDenied)
    }
    const paths = [join(open, 'archive.tar'), join(directory, 'archive.tar'), '/etc/shadow']
    for (const path of paths) {
      for (const end of [
        await rights.call(alice, controlService.Load, { path }),
        await rights.call(alice, controlService.Import, { source: path, reference: 'x:1' }),
        await rights.call(alice, controlService.Load, {
          sep: { app: 'a:1', dir: join(path, '..'), base: path, lib: path, enabled: true },
        }),
        await rights.call(alice, controlService.Save, {
          images: ['base:1'],
          sep: { base: 'base:1', rename: path, dest: join(alice.home, 'sep'), enabled: true },
        }),
      ]) {
        expect({ path, ...end }).toMatchObject({ code: permissionDenied })
      }
    }
  })

  test('nor through links in his own context', async () => {
    const { open } = rights.guarded
    const context = rights.context(alice, 'FROM base:1\nCOPY l /l\nRUN cat /l\n')
    for (const target of [join(open, 'secret'), '/etc/shadow', `/proc/1/root${join(open, 'secret')}`]) {
      symlinkSync(target, join(context, 'l'))
      // Links lead no further than the root of the context, so it is missing there.
      await rights.refused(alice, /not found|no such|does not exist/i, 'ctr-img', 'build', context)
      const { code } = await rights.control(alice, {
        contextDir: context,
        fileContent: 'FROM base:1\nCOPY l /l\n',
      })
      expect(refusals).toContain(code)
      rmSync(join(context, 'l'))
    }
    symlinkSync(join(open, 'context'), join(context, 'd'))
    await rights.refused(alice, /./, 'ctr-img', 'build', join(context, 'd'))
    const linked = await rights.control(alice, { contextDir: join(context, 'd'), fileContent: copyAll })
    expect(linked.code).toBe(permissionDenied)
    for (const name of ['Dockerfile.dockerignore', '.dockerignore']) {
      symlinkSync(join(open, 'secret'), join(context, name))
      const ignored = await rights.control(alice, { contextDir: context, fileContent: copyAll })
      expect({ name, ...ignored }).toMatchObject({ code: permissionDenied })
      rmSync(join(context, name))
    }
  })

  test('nor files of root in his own context', async () => {
    const context = rights.context(alice, copyAll, { f: 'x', 'sub/g': 'y' })
    const planted = join(context, 'planted')
    copyFileSync(join(rights.guarded.open, 'secret'), planted)
    chownSync(planted, 0, 0)
    await rights.refused(alice, /may not read \/planted|permission denied/i, 'ctr-img', 'build', context)
    const { code, details } = await rights.control(alice, { contextDir: context, fileContent: copyAll })
    expect(code).toBe(permissionDenied)
    expect(details).toContain('/planted')
    // What is left out is not even looked into.
    writeFileSync(join(context, '.dockerignore'), 'planted\n')
    await rights.accepted(alice, 'ctr-img', 'build', context)
  })

  test('nor anything through /proc, /sys and /dev', async () => {
    const pid = rights.bench.daemon.child?.pid ?? 0
    const doors = [
      ...[`/proc/${pid}/root`, `/proc/${pid}/cwd`, `/proc/1/root`, `/proc/1/cwd`],
      ...['/proc/self/root/root', '/proc/self/fd', '/proc/sys', '/proc', '/sys', '/dev'],
      ...[`/proc/${process.pid}/root${rights.guarded.directory}`, '/proc/self/cwd', '/dev/fd'],
    ]
    for (const contextDir of doors) {
      const { code, details, log } = await rights.control(alice, {
        contextDir,
        fileContent: 'FROM base:1\nCOPY . /x/\nRUN find /x\n',
      })
      expect({ contextDir, code, details }).not.toMatchObject({ code: 0 })
      expect(refusals).toContain(code)
      expect(log).not.toContain('shadow')
    }
    const files = [
      ...[`/proc/${pid}/fd/3`, `/proc/${pid}/environ`, '/proc/self/environ', '/proc/kcore', '/proc/self/mem'],
      ...['/dev/zero', '/dev/mem', '/dev/fuse', '/proc/sys/kernel/hostname', '/proc/self/fd/0'],
      `/proc/${pid}/root/etc/shadow`,
    ]
    for (const path of files) {
      for (const end of [
        await rights.call(alice, controlService.Load, { path }),
        await rights.call(alice, controlService.Import, { source: path }),
      ]) {
        expect({ path, ...end }).not.toMatchObject({ code: 0 })
        expect(refusals).toContain(end.code)
        expect(end.milliseconds).toBeLessThan(5000)
      }
    }
  })

  test('devices and FIFOs in a context or as an archive keep nobody waiting', async () => {
    const context = rights.context(alice, copyAll)
    execFileSync('mkfifo', ['-m', '666', join(context, 'fifo')])
    chownSync(join(context, 'fifo'), alice.uid, alice.gid)
    const began = performance.now()
    const copied = await rights.control(alice, { contextDir: context, fileContent: copyAll })
    // Like docker: a FIFO is copied as the node it is, or refused, but never opened.
    expect([0, ...refusals, 9]).toContain(copied.code)
    const loaded = await rights.call(alice, controlService.Load, { path: join(context, 'fifo') })
    expect(loaded).toMatchObject({ code: 3, details: expect.stringContaining('not a regular file') })
    rmSync(join(context, 'fifo'))
    for (const name of ['.dockerignore', 'Dockerfile.dockerignore']) {
      execFileSync('mkfifo', ['-m', '666', join(context, name)])
      const ignored = await rights.control(alice, { contextDir: context, fileContent: copyAll })
      expect(refusals).toContain(ignored.code)
      rmSync(join(context, name))
    }
    execFileSync('mknod', ['-m', '666', join(context, 'disk'), 'b', '7', '0'])
    const node = await rights.control(alice, { contextDir: context, fileContent: copyAll })
    expect([0, ...refusals, 9]).toContain(node.code)
    expect(performance.now() - began).toBeLessThan(20_000)
  })

  test('nor what a link points to for a moment', async () => {
    const { open } = rights.guarded
    const context = rights.context(alice, 'FROM scratch\nCOPY d/secret /s\nCOPY t /t\n', {
      'real/secret': 'own',
      own: 'own',
    })
    const place = (name: string, target: string): void => {
      symlinkSync(target, join(context, `${name}.new`))
      lchownSync(join(context, `${name}.new`), alice.uid, alice.gid)
      renameSync(join(context, `${name}.new`), join(context, name))
    }
    let round = 0
    const swap = setInterval(() => {
      round++
      place('d', round % 2 === 0 ? 'real' : open)
      place('t', round % 2 === 0 ? 'own' : join(open, 'secret'))
    }, 1)
    try {
      for (let i = 0; i < 12; i++) {
        const output = join(alice.home, `race-${i}.tar`)
        const { code } = await rights.control(alice, {
          contextDir: context,
          fileContent: 'FROM scratch\nCOPY d/secret /s\nCOPY t /t\n',
          output: `docker-archive:${output}`,
        })
        if (code === 0) expect(readFileSync(output).includes(rights.guarded.secret)).toBe(false)
      }
    } finally {
      clearInterval(swap)
    }
    expect(round).toBeGreaterThan(50)
  })

  test('an archive of his own is loaded and imported, whoever else may read it', async () => {
    const path = join(alice.home, 'base.tar')
    copyFileSync(rights.bench.baseTar, path)
    chownSync(path, alice.uid, alice.gid)
    expect(statSync(alice.home).mode & 0o077).toBe(0)
    await rights.accepted(alice, 'ctr-img', 'import', path, 'imported-by:alice')
    await rights.refused(rights.bob, /permission denied/i, 'ctr-img', 'import', path, 'imported-by:bob')
    const end = await rights.call(rights.bob, controlService.Import, { source: path })
    expect(end.code).toBe(permissionDenied)
  })
})
