import { closeSync, mkdirSync, openSync, symlinkSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { AT_FDCWD } from '../system/libc.js'
import { mknodat, S_IFIFO } from '../system/syscalls.js'
import { openWorkshop, type Workshop } from './test-layers.js'
import { resolveOwner, resolveUser, resolveUserJob } from './users.js'

const asRoot = userInfo().uid === 0

const passwd = `root:x:0:0:root:/root:/bin/sh
# comment:x:1:1::/:
app:x:1000:1001:App:/home/app:/bin/sh
1234:x:77:78:a name of digits:/home/digits:

broken
other:x:1000:5::/other:
`
const group = `root:x:0:
app:x:1001:
docker:x:50:nobody,app
wheel:x:1:app
1234:x:99:
`

function image(shop: Workshop): string {
  const root = shop.layer('image')
  mkdirSync(join(root, 'etc'))
  writeFileSync(join(root, 'etc/passwd'), passwd)
  writeFileSync(join(root, 'etc/group'), group)
  return root
}

function withRoot<T>(root: string, use: (fd: number) => T): T {
  const fd = openSync(root, 'r')
  try {
    return use(fd)
  } finally {
    closeSync(fd)
  }
}

describe('USER', () => {
  test.each([
    ['', { uid: 0, gid: 0, additionalGids: [0], home: '/root' }],
    ['app', { uid: 1000, gid: 1001, additionalGids: [1001, 50, 1], home: '/home/app' }],
    ['1000', { uid: 1000, gid: 1001, additionalGids: [1001, 50, 1], home: '/home/app' }],
    ['4321', { uid: 4321, gid: 0, additionalGids: [0], home: '/' }],
    ['1234', { uid: 1234, gid: 0, additionalGids: [0], home: '/' }],
    ['app:docker', { uid: 1000, gid: 50, additionalGids: [50], home: '/home/app' }],
    ['app:7', { uid: 1000, gid: 7, additionalGids: [7], home: '/home/app' }],
    ['4321:wheel', { uid: 4321, gid: 1, additionalGids: [1], home: '/' }],
    [':docker', { uid: 0, gid: 50, additionalGids: [50], home: '/root' }],
    ['app:', { uid: 1000, gid: 1001, additionalGids: [1001, 50, 1], home: '/home/app' }],
  ])('"%s"', (user, expected) => {
    using shop = openWorkshop()
    expect(withRoot(image(shop), (fd) => resolveUser(fd, user))).toEqual(expected)
  })

  test.each([
    ['nobody', /no user "nobody"/],
    ['app:nogroup', /no group "nogroup"/],
    ['2147483648', /end at 2147483647/],
    ['app:99999999999', /end at 2147483647/],
    ['-1', /no user "-1"/],
  ])('"%s" is refused', (user, message) => {
    using shop = openWorkshop()
    expect(() => withRoot(image(shop), (fd) => resolveUser(fd, user))).toThrowError(
      expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID', message: expect.stringMatching(message) }),
    )
  })

  test('numbers need no files, names do', () => {
    using shop = openWorkshop()
    const root = shop.layer('empty')
    expect(withRoot(root, (fd) => resolveUser(fd, '5:6'))).toEqual({
      uid: 5,
      gid: 6,
      additionalGids: [6],
      home: '/',
    })
    expect(() => withRoot(root, (fd) => resolveUser(fd, 'app'))).toThrowError(/no user "app"/)
  })
})

test('--chown gives a number its own group and a name that of its entry', () => {
  using shop = openWorkshop()
  const root = image(shop)
  const owner = (chown: string): unknown => withRoot(root, (fd) => resolveOwner(fd, chown))
  expect(owner('1000')).toEqual({ uid: 1000, gid: 1000 })
  expect(owner('app')).toEqual({ uid: 1000, gid: 1001 })
  expect(owner('app:docker')).toEqual({ uid: 1000, gid: 50 })
  expect(owner('3:4')).toEqual({ uid: 3, gid: 4 })
  expect(owner(':wheel')).toEqual({ uid: 0, gid: 1 })
  expect(() => owner('nobody')).toThrowError(/no user "nobody"/)
})

describe.skipIf(!asRoot)('hostile files (S18)', () => {
  test.each<[string, (path: string, shop: Workshop) => void, RegExp]>([
    ['a link to a host file', (path, shop) => symlinkSync(join(shop.root, 'secret'), path), /no user/],
    ['a link to /dev/zero', (path) => symlinkSync('/dev/zero', path), /no user/],
    ['a link to /proc/self/environ', (path) => symlinkSync('/proc/self/environ', path), /no user/],
    ['a FIFO', (path) => mknodat(AT_FDCWD, path, S_IFIFO | 0o644, 0, 0), /no regular file/],
    ['a directory', (path) => mkdirSync(path), /no regular file/],
    ['a large file', (path) => writeFileSync(path, Buffer.alloc((1 << 20) + 1)), /larger than 1 MiB/],
    ['a loop of links', (path) => symlinkSync('passwd', path), /leads nowhere/],
  ])('%s as /etc/passwd is an error at once', (_, make, message) => {
    using shop = openWorkshop()
    writeFileSync(join(shop.root, 'secret'), 'app:x:1:1::/:\n')
    const root = shop.layer('image')
    mkdirSync(join(root, 'etc'))
    make(join(root, 'etc/passwd'), shop)
    expect(() => resolveUserJob({ lowers: [root], user: 'app' })).toThrowError(
      expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID', message: expect.stringMatching(message) }),
    )
  })

  test('the topmost layer counts, and a deleted file is gone', () => {
    using shop = openWorkshop()
    const base = image(shop)
    const top = shop.layer('top')
    mkdirSync(join(top, 'etc'))
    writeFileSync(join(top, 'etc/passwd'), 'app:x:5:6::/x:')
    expect(resolveUserJob({ lowers: [top, base], user: 'app' })).toEqual({
      ...{ uid: 5, gid: 6, home: '/x' },
      additionalGids: [6, 50, 1],
    })
    expect(resolveUserJob({ lowers: [], user: '8' }).uid).toBe(8)
  })
})
