import { spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { flistxattr, lgetxattr, llistxattr, lremovexattr, lsetxattr } from './extended-attributes.js'
import { fstat, fstatat, isWhiteoutDevice, lstatIfExists, readDirectory, statPath } from './file-stat.js'
import { AT_FDCWD } from './libc.js'
import { kill, POLLIN, pidfdOpen, pidfdSendSignal, pipe2, poll, setNonBlocking } from './processes.js'
import { packetPair, peerCredentials, peerGroups, peerPidfd, receiveMessage, sendMessage } from './sockets.js'
import { spawnProgram, waitProgram } from './spawn.js'
import {
  AT_REMOVEDIR,
  copyFileRange,
  fchownat,
  linkat,
  linkDescriptor,
  mkdirat,
  mknodat,
  O_CREAT,
  O_DIRECTORY,
  O_PATH,
  O_RDONLY,
  O_RDWR,
  openat,
  openat2,
  RENAME_NOREPLACE,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  renameat2,
  S_IFBLK,
  S_IFCHR,
  symlinkat,
  tryFlock,
  unlinkat,
  unlockFlock,
  utimensat,
} from './syscalls.js'
import { SystemError } from './system-error.js'

const asRoot = userInfo().uid === 0
let root = ''
let rootFd = -1

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'isula-build-syscalls-'))
  rootFd = openSync(root, 'r')
})
afterEach(() => {
  closeSync(rootFd)
  rmSync(root, { recursive: true, force: true })
})

function failure(code: string, syscall: string): unknown {
  return expect.objectContaining({ name: 'SystemError', code, syscall })
}

describe('files', () => {
  test('names are bytes in latin1 strings', () => {
    const name = '\xff\xfe\x80'
    mkdirat(rootFd, name, 0o755)
    symlinkat('\x80\xff', rootFd, `${name}/l`)
    expect(readDirectory(rootFd)).toEqual([name])
    expect(readlinkat(rootFd, `${name}/l`)).toBe('\x80\xff')
    const inner = openat(rootFd, name, O_RDONLY | O_DIRECTORY)
    expect(readDirectory(inner)).toEqual(['l'])
    closeSync(inner)
  })

  test('an error tells errno, call and path', () => {
    expect(() => openat(rootFd, 'none', O_RDONLY)).toThrowError(failure('ENOENT', 'openat'))
    expect(() => mkdirat(rootFd, 'a\0b', 0o755)).toThrowError(failure('EINVAL', 'mkdirat'))
    expect(() => mkdirat(rootFd, 'n'.repeat(9000), 0o755)).toThrowError(failure('ENAMETOOLONG', 'mkdirat'))
    expect(() => unlinkat(-1, 'x')).toThrowError(failure('EBADF', 'unlinkat'))
    expect(new SystemError(2, 'open', 'caf\xc3\xa9').message).toBe('ENOENT: open "caf\u00e9"')
  })

  test('openat2 keeps to its rules', () => {
    symlinkat('/etc', rootFd, 'l')
    expect(() => openat2(rootFd, 'l/passwd', O_RDONLY, 0, RESOLVE_NO_SYMLINKS)).toThrowError(
      failure('ELOOP', 'openat2'),
    )
    expect(() => openat2(rootFd, '../x', O_RDONLY, 0, RESOLVE_BENEATH)).toThrowError(
      failure('EXDEV', 'openat2'),
    )
    closeSync(openat2(rootFd, 'new', O_RDWR | O_CREAT, 0o600, RESOLVE_BENEATH))
    expect(statSync(join(root, 'new')).mode & 0o777).toBe(0o600)
  })

  test('links, renames and removals', () => {
    writeFileSync(join(root, 'a'), 'a')
    linkat(rootFd, 'a', rootFd, 'b')
    const fd = openat(rootFd, 'a', O_RDONLY)
    linkDescriptor(fd, rootFd, 'c')
    closeSync(fd)
    expect(fstatat(rootFd, 'c').nlink).toBe(3)
    expect(() => renameat2(rootFd, 'a', rootFd, 'b', RENAME_NOREPLACE)).toThrowError(
      failure('EEXIST', 'renameat2'),
    )
    mkdirat(rootFd, 'd', 0o755)
    renameat2(rootFd, 'a', rootFd, 'd/a')
    expect(() => unlinkat(rootFd, 'd', AT_REMOVEDIR)).toThrowError(failure('ENOTEMPTY', 'unlinkat'))
    unlinkat(rootFd, 'd/a')
    unlinkat(rootFd, 'd', AT_REMOVEDIR)
    expect(readDirectory(rootFd).sort()).toEqual(['b', 'c'])
  })

  test('a directory of 5000 names is listed whole, twice', () => {
    const names = Array.from({ length: 5000 }, (_, index) => `file-${index}`)
    for (const name of names) closeSync(openat(rootFd, name, O_RDWR | O_CREAT, 0o644))
    expect(readDirectory(rootFd).sort()).toEqual([...names].sort())
    expect(readDirectory(rootFd)).toHaveLength(5000)
  })

  test('times have nanoseconds, before 1970 too, and can be left alone one by one', () => {
    writeFileSync(join(root, 'f'), '')
    utimensat(rootFd, 'f', 1n, -1_500_000_001n)
    utimensat(rootFd, 'f', 2_000_000_003n, undefined)
    const stat = statSync(join(root, 'f'), { bigint: true })
    expect([stat.atimeNs, fstatat(rootFd, 'f').mtimeNs]).toEqual([2_000_000_003n, -1_500_000_001n])
  })

  test('stat agrees with node', () => {
    writeFileSync(join(root, 'f'), 'content', { mode: 0o640 })
    for (const path of ['/etc/passwd', '/dev/null', '/', join(root, 'f')]) {
      const own = statPath(path)
      const nodes = statSync(path, { bigint: true })
      const { dev, ino, mtimeNs, ctimeNs } = nodes
      expect(own).toMatchObject({ dev, ino, mtimeNs, ctimeNs })
      expect([own.uid, own.gid, own.size, own.nlink, own.mode].map(BigInt)).toEqual([
        ...[nodes.uid, nodes.gid, nodes.size, nodes.nlink],
        nodes.mode & 0o7777n,
      ])
    }
    expect(statPath('/dev/null')).toMatchObject({ type: 'character', rdevMajor: 1, rdevMinor: 3 })
    expect(lstatIfExists(rootFd, 'none')).toBeUndefined()
    const place = openat(rootFd, 'f', O_PATH)
    expect(fstat(place).size).toBe(7)
    closeSync(place)
  })

  test('copy_file_range copies and reports what cannot be copied', () => {
    writeFileSync(join(root, 'a'), 'x'.repeat(10_000))
    const from = openat(rootFd, 'a', O_RDONLY)
    const to = openat(rootFd, 'b', O_RDWR | O_CREAT, 0o600)
    for (let left = 10_000; left > 0; ) {
      const count = copyFileRange(from, to, left)
      expect(count).toBeGreaterThan(0)
      left -= count
    }
    expect(copyFileRange(from, to, 1)).toBe(0)
    expect(readFileSync(join(root, 'b'), 'utf8')).toBe('x'.repeat(10_000))
    const { read, write } = pipe2()
    expect(copyFileRange(from, write, 1)).toBe(-1)
    for (const fd of [from, to, read, write]) closeSync(fd)
  })

  test('an exclusive lock is had once', () => {
    const one = openat(rootFd, 'lock', O_RDWR | O_CREAT, 0o600)
    const two = openat(rootFd, 'lock', O_RDWR)
    expect([tryFlock(one, 'exclusive'), tryFlock(two, 'exclusive'), tryFlock(two, 'shared')]).toEqual([
      true,
      false,
      false,
    ])
    unlockFlock(one)
    expect(tryFlock(two, 'shared')).toBe(true)
    closeSync(one)
    closeSync(two)
  })
})

describe.skipIf(!asRoot)('what only root may', () => {
  test('devices have their numbers, owners the whole range', () => {
    mknodat(rootFd, 'w', S_IFCHR, 0, 0)
    mknodat(rootFd, 'b', S_IFBLK | 0o600, 259, 70000)
    expect(isWhiteoutDevice(fstatat(rootFd, 'w'))).toBe(true)
    expect(fstatat(rootFd, 'b')).toMatchObject({ type: 'block', rdevMajor: 259, rdevMinor: 70000 })
    symlinkat('/etc/passwd', rootFd, 'l')
    fchownat(rootFd, 'l', 4_294_967_294, 3_000_000_000)
    expect(fstatat(rootFd, 'l')).toMatchObject({ uid: 4_294_967_294, gid: 3_000_000_000 })
  })

  test('attributes are binary and belong to a link, not to its target', () => {
    const path = join(root, 'f')
    writeFileSync(path, '')
    symlinkat('f', rootFd, 'l')
    const value = Buffer.from(Array.from({ length: 256 }, (_, index) => index))
    lsetxattr(path, 'user.all', value)
    lsetxattr(path, 'user.none', Buffer.alloc(0))
    lsetxattr(join(root, 'l'), 'trusted.link', Buffer.from('l'))
    expect(lgetxattr(path, 'user.all')).toEqual(value)
    expect(lgetxattr(path, 'user.none')).toEqual(Buffer.alloc(0))
    expect(lgetxattr(path, 'trusted.link')).toBeUndefined()
    expect(llistxattr(join(root, 'l'))).toEqual(['trusted.link'])
    lremovexattr(path, 'user.none')
    const fd = openSync(path, 'r')
    expect(flistxattr(fd)).toEqual(['user.all'])
    closeSync(fd)
  })
})

describe('sockets', () => {
  test('descriptors travel with their message', () => {
    const [left, right] = packetPair()
    writeFileSync(join(root, 'f'), 'sent')
    const fds = [openSync(join(root, 'f'), 'r'), openSync('/dev/null', 'r'), openSync(root, 'r')]
    expect(sendMessage(left, Buffer.from('three'), fds)).toBe(true)
    for (const fd of fds) closeSync(fd)
    sendMessage(left, Buffer.from('longer than the buffer'))
    const target = Buffer.alloc(10)
    const first = receiveMessage(right, target)
    expect([first?.length, first?.descriptors.length, first?.truncated]).toEqual([5, 3, false])
    expect(readFileSync(first?.descriptors[0] ?? -1, 'utf8')).toBe('sent')
    for (const fd of first?.descriptors ?? []) closeSync(fd)
    expect(receiveMessage(right, target)).toMatchObject({ length: 10, descriptors: [], truncated: true })
    expect(receiveMessage(right, target, false)).toBeUndefined()
    closeSync(left)
    expect(receiveMessage(right, target)?.length).toBe(0)
    expect(() => sendMessage(right, Buffer.from('x'))).toThrowError(failure('EPIPE', 'sendmsg'))
    closeSync(right)
  })

  test('a full socket does not block who does not want to wait', () => {
    const [left, right] = packetPair()
    let sent = 0
    while (sendMessage(left, Buffer.alloc(4096), [], false)) sent += 1
    expect(sent).toBeGreaterThan(0)
    closeSync(left)
    closeSync(right)
  })

  test('a peer that ended before it was let in is seen to be gone', async () => {
    const path = join(root, 'waiting')
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(path, resolve))
    const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
    const script = `require('node:net').connect(${JSON.stringify(path)}, () => process.exit())`
    expect(spawnSync(process.execPath, ['-e', script]).status).toBe(0)
    const socket = await accepted
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
    // Newer kernels give a descriptor of what is gone, others fail, and those before Linux 6.5 cannot tell.
    const seen = (): boolean => {
      const pidfd = peerPidfd(fd)
      if (pidfd === undefined) return false
      try {
        return pidfdSendSignal(pidfd, 0)
      } finally {
        closeSync(pidfd)
      }
    }
    try {
      expect(seen()).toBe(false)
    } catch (error) {
      expect(error).toMatchObject({ syscall: 'getsockopt' })
    }
    socket.destroy()
    server.close()
  })

  test('the peer is known', async () => {
    const path = join(root, 'socket')
    const server = createServer()
    const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
    await new Promise<void>((resolve) => server.listen(path, resolve))
    const client = connect(path)
    const socket = await accepted
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
    const { uid, gid } = userInfo()
    expect(peerCredentials(fd)).toEqual({ pid: process.pid, uid, gid })
    const pidfd = peerPidfd(fd)
    if (pidfd !== undefined) {
      expect(pidfdSendSignal(pidfd, 0)).toBe(true)
      closeSync(pidfd)
    }
    const groups = /^Groups:(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
    expect(peerGroups(fd).map(String)).toEqual(
      groups
        .split(' ')
        .map((group) => group.trim())
        .filter((group) => group !== ''),
    )
    client.destroy()
    socket.destroy()
    server.close()
  })
})

describe('processes', () => {
  test('a program runs with exactly what it is given', () => {
    const output = pipe2()
    const pid = spawnProgram(
      '/bin/sh',
      ['sh', '-c', 'env; ls /proc/self/fd; exit 7'],
      ['A=b'],
      [0, output.write, 2],
    )
    closeSync(output.write)
    const lines = readFileSync(output.read, 'utf8').split('\n')
    expect(waitProgram(pid)).toBe(7)
    closeSync(output.read)
    expect(lines).toContain('A=b')
    expect(
      lines.some((line) => line.startsWith('PATH=') && line.includes(process.env['PATH'] ?? 'none')),
    ).toBe(false)
    expect(lines.filter((line) => /^\d+$/.test(line))).toEqual(['0', '1', '2', '3'])
  })

  test('signals reach it, and its end is told', () => {
    const pid = spawnProgram('/bin/sleep', ['sleep', '100'], [], [0, 1, 2])
    const pidfd = pidfdOpen(pid)
    expect(pidfdSendSignal(pidfd, 15)).toBe(true)
    expect(waitProgram(pid)).toBe(128 + 15)
    expect([pidfdSendSignal(pidfd, 15), kill(pid, 0)]).toEqual([false, false])
    closeSync(pidfd)
    expect(() => spawnProgram('/nonexistent', ['x'], [], [0, 1, 2])).toThrowError(
      failure('ENOENT', 'posix_spawn'),
    )
  })

  test('poll tells what is ready and waits no longer than it may', () => {
    const { read, write } = pipe2()
    setNonBlocking(read, true)
    expect(poll([{ fd: read, events: POLLIN }], 10)).toEqual([0])
    writeFileSync(write, 'x')
    expect(poll([{ fd: read, events: POLLIN }], 1000)).toEqual([POLLIN])
    closeSync(read)
    closeSync(write)
  })
})

test('a long path below many directories works relative to a descriptor', () => {
  const deep = Array.from({ length: 60 }, () => 'd'.repeat(50)).join('/')
  mkdirSync(join(root, deep), { recursive: true })
  const fd = openat(rootFd, deep, O_RDONLY | O_DIRECTORY)
  expect(readDirectory(fd)).toEqual([])
  expect(() => openat(AT_FDCWD, `${root}/${deep}/${deep}`, O_RDONLY)).toThrowError(
    failure('ENAMETOOLONG', 'openat'),
  )
  closeSync(fd)
})
