import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { createRightsBench, type RightsBench, type TestUser } from '../support/rights-bench.js'
import { snapshotTree } from '../support/tree-snapshot.js'

/** What a member of the socket's group cannot write or delete, the daemon does not write or delete for him. */

const isRoot = process.getuid?.() === 0
const invalidArgument = 3
const alreadyExists = 6
const permissionDenied = 7
const fileContent = 'FROM base:1\n'

describe.skipIf(!isRoot)('what a member of the group may write', () => {
  let rights: RightsBench
  let alice: TestUser
  let context: string

  beforeAll(async () => {
    rights = await createRightsBench()
    alice = rights.alice
    context = rights.context(alice, 'FROM base:1\nCOPY f /f\n', { f: 'content' })
  })
  afterEach(() => rights.expectUnharmed())
  afterAll(() => rights?.[Symbol.asyncDispose]())

  test('outputs and ID files are his, also when the daemon writes them', async () => {
    const place = (name: string): string => join(alice.home, name)
    await rights.accepted(
      alice,
      ...['ctr-img', 'build', '-t', 'alice/out:1', '--iidfile', place('iid')],
      ...['-o', `docker-archive:${place('docker.tar')}`, '-o', `oci-archive:${place('oci.tar')}`, context],
    )
    await rights.accepted(alice, 'ctr-img', 'save', 'alice/out:1', '-o', place('saved.tar'))
    const separated = ['-b', 'base:1', '-d', place('parts')]
    await rights.accepted(alice, 'ctr-img', 'save', ...separated, 'alice/out:1')
    const built = await rights.control(alice, {
      ...{ contextDir: context, fileContent, iidfile: place('iid-1') },
      output: `docker-archive:${place('v1.tar')}`,
    })
    expect(built).toMatchObject({ code: 0, details: '' })
    expect(readFileSync(place('iid-1'), 'utf8')).toBe(built.id)
    const parts = readdirSync(place('parts')).map((name) => `parts/${name}`)
    expect(parts.length).toBeGreaterThan(1)
    const files = ['iid', 'docker.tar', 'oci.tar', 'saved.tar', 'iid-1', 'v1.tar', 'parts', ...parts]
    for (const name of files) {
      expect({ name, ...statSync(place(name)) }).toMatchObject({ uid: alice.uid, gid: alice.gid })
      expect(statSync(place(name)).mode & 0o022).toBe(0)
    }
  })

  test('nothing is written, replaced or removed where only root or another user may', async () => {
    const { open, directory } = rights.guarded
    const { bob } = rights
    writeFileSync(join(bob.home, 'file'), 'of bob')
    lchownSync(join(bob.home, 'file'), bob.uid, bob.gid)
    chmodSync(bob.home, 0o755)
    const before = snapshotTree(bob.home)
    const places = [
      open,
      directory,
      bob.home,
      '/etc',
      '/etc/cron.d',
      '/root',
      '/proc/1/cwd',
      '/proc/1/root/etc',
    ]
    for (const place of places) {
      const path = join(place, 'isula-rights-new')
      const made = await rights.control(alice, {
        ...{ contextDir: context, fileContent, output: `docker-archive:${path}` },
      })
      expect({ path, ...made }).toMatchObject({ code: permissionDenied })
      const noted = await rights.control(alice, { contextDir: context, fileContent, iidfile: path })
      expect({ path, ...noted }).toMatchObject({ code: permissionDenied })
      const saved = await rights.call(alice, controlService.Save, { images: ['base:1'], path })
      expect({ path, ...saved }).toMatchObject({ code: permissionDenied })
      const sep = { base: 'base:1', dest: path, enabled: true }
      const parted = await rights.call(alice, controlService.Save, { images: ['alice/out:1'], sep })
      expect({ path, ...parted }).toMatchObject({ code: permissionDenied })
      expect(existsSync(path)).toBe(false)
    }
    for (const path of [join(open, 'secret'), join(bob.home, 'file'), '/etc/hostname']) {
      const noted = await rights.control(alice, { contextDir: context, fileContent, iidfile: path })
      expect({ path, ...noted }).toMatchObject({ code: permissionDenied })
      const saved = await rights.call(alice, controlService.Save, { images: ['base:1'], path })
      expect({ path, ...saved }).toMatchObject({ code: alreadyExists })
      const output = `docker-archive:${path}`
      const made = await rights.control(alice, { contextDir: context, fileContent, output })
      expect({ path, ...made }).toMatchObject({ code: alreadyExists })
      const sep = { base: 'base:1', dest: path, enabled: true }
      const parted = await rights.call(alice, controlService.Save, { images: ['alice/out:1'], sep })
      expect({ path, ...parted }).toMatchObject({ code: alreadyExists })
    }
    expect(snapshotTree(bob.home)).toEqual(before)
    chmodSync(bob.home, 0o700)
    await rights.refused(alice, /permission denied/i, 'ctr-img', 'save', 'base:1', '-o', '/etc/isula-rights')
    const client = ['ctr-img', 'build', '--iidfile', '/etc/isula-rights', context]
    await rights.refused(alice, /permission denied/i, ...client)
  })

  test('a save that fails leaves what is there, and removes only what it made', async () => {
    const kept = join(alice.home, 'kept.tar')
    writeFileSync(kept, 'kept')
    const saved = await rights.call(alice, controlService.Save, {
      images: ['base:1', 'absent:1'],
      path: kept,
    })
    expect(saved.code).not.toBe(0)
    expect(readFileSync(kept, 'utf8')).toBe('kept')
    const path = join(alice.home, 'never.tar')
    const failed = await rights.call(alice, controlService.Save, { images: ['base:1', 'absent:1'], path })
    expect(failed.code).not.toBe(0)
    expect(existsSync(path)).toBe(false)
  })

  test('kernel knobs, devices, FIFOs and sockets are never written to', async () => {
    const fifo = join(alice.home, 'fifo')
    execFileSync('mkfifo', ['-m', '666', fifo])
    const hostname = readFileSync('/proc/sys/kernel/hostname', 'utf8')
    const paths = [fifo, '/dev/null', '/dev/full', '/dev/tty', '/proc/self/comm', '/proc/sys/kernel/hostname']
    for (const path of [...paths, rights.bench.daemon.socket, '/proc/self/fd/3', '/dev/stdout']) {
      const began = performance.now()
      const noted = await rights.control(alice, { contextDir: context, fileContent, iidfile: path })
      expect({ path, ...noted }).not.toMatchObject({ code: 0 })
      expect([invalidArgument, 5, permissionDenied]).toContain(noted.code)
      const output = `docker-archive:${path}`
      const made = await rights.control(alice, { contextDir: context, fileContent, output })
      expect([invalidArgument, 5, alreadyExists, permissionDenied]).toContain(made.code)
      expect(performance.now() - began).toBeLessThan(10_000)
    }
    expect(readFileSync('/proc/sys/kernel/hostname', 'utf8')).toBe(hostname)
    rmSync(fifo)
  })

  test('a link in the way is not followed out, nor one that appears in the middle', async () => {
    const { open } = rights.guarded
    const link = (name: string, target: string): string => {
      symlinkSync(target, join(alice.home, `${name}.new`))
      lchownSync(join(alice.home, `${name}.new`), alice.uid, alice.gid)
      renameSync(join(alice.home, `${name}.new`), join(alice.home, name))
      return join(alice.home, name)
    }
    const dangling = link('dangling', join(open, 'made-by-link'))
    const made = await rights.call(alice, controlService.Save, { images: ['base:1'], path: dangling })
    expect(made.code).toBe(alreadyExists)
    const noted = await rights.control(alice, {
      ...{ contextDir: context, fileContent, iidfile: link('to-secret', join(open, 'secret')) },
    })
    expect(noted.code).toBe(permissionDenied)

    mkdirSync(join(alice.home, 'real'))
    lchownSync(join(alice.home, 'real'), alice.uid, alice.gid)
    let round = 0
    const swap = setInterval(() => {
      link('swapped', ++round % 2 === 0 ? 'real' : open)
      link('file', round % 2 === 0 ? 'real/file' : join(open, 'secret'))
    }, 1)
    try {
      for (let i = 0; i < 6; i++) {
        const path = join(alice.home, 'swapped', `out-${i}.tar`)
        await rights.call(alice, controlService.Save, { images: ['base:1'], path })
        const iidfile = join(alice.home, 'file')
        await rights.control(alice, { contextDir: context, fileContent, iidfile })
        const dest = join(alice.home, 'swapped', `parts-${i}`)
        const sep = { base: 'base:1', dest, enabled: true }
        await rights.call(alice, controlService.Save, { images: ['alice/out:1'], sep })
      }
    } finally {
      clearInterval(swap)
    }
    expect(round).toBeGreaterThan(50)
  })

  describe('in a mount namespace of his own', () => {
    /** Runs the client with a memory file system over `hidden`, in which `prepare` has worked. */
    const inOtherMounts = (hidden: string, prepare: string, args: readonly string[], after = 'true') =>
      rights.client(alice, args, {
        cwd: '/',
        through: [
          ...['unshare', '-m', 'sh', '-c'],
          `mount -t tmpfs tmpfs "$1" && cd "$1" && { ${prepare}; } && chown -R ${alice.uid}:${alice.gid} . || exit 99
           shift; setpriv --reuid=${alice.uid} --regid=${alice.gid} --clear-groups -- "$@"; s=$?; ${after}; exit $s`,
          ...['sh', hidden],
        ],
      })

    test('the context he sees is built, not the one the daemon sees', async () => {
      const place = rights.context(alice, 'FROM base:1\nRUN echo of-the-daemon\n')
      const prepare = `printf 'FROM base:1\\nCOPY f /f\\nRUN cat /f\\n' > Dockerfile; echo of-the-client > f`
      const { status, stdout, stderr } = await inOtherMounts(place, prepare, ['ctr-img', 'build', place])
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
      expect(stdout).toContain('of-the-client')
      expect(stdout).not.toContain('of-the-daemon')
    })

    test('outputs and archives by path are refused clearly, and streams work', async () => {
      const place = join(alice.home, rights.fresh('hidden'))
      mkdirSync(place)
      const args = ['ctr-img', 'save', 'base:1', '-o', join(place, 'out.tar')]
      const saved = await inOtherMounts(place, 'true', args, `ls -A ${place}`)
      expect(saved).toMatchObject({ status: 1, stdout: '' })
      expect(saved.stderr).toMatch(/other files/)
      expect(saved.stderr).toMatch(/mount namespace/)
      expect(lstatSync(place).isDirectory() && readdirSync(place)).toEqual([])
      const loaded = await inOtherMounts(place, 'echo x > a.tar', [
        'ctr-img',
        'load',
        '-i',
        join(place, 'a.tar'),
      ])
      expect(loaded.status).toBe(1)
      expect(loaded.stderr).toMatch(/other files/)
      const stream = await rights.client(alice, ['ctr-img', 'save', 'base:1', '-o', '-'], {
        cwd: '/',
        through: [
          'unshare',
          '-m',
          'setpriv',
          `--reuid=${alice.uid}`,
          `--regid=${alice.gid}`,
          '--clear-groups',
          '--',
        ],
      })
      expect({ status: stream.status, stderr: stream.stderr }).toEqual({ status: 0, stderr: '' })
      expect(stream.stdout.length).toBeGreaterThan(100_000)
    })
  })
})
