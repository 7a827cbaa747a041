import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { controlService } from '@isula-build/shared/rpc/control.js'
import { describe, expect, test } from 'vitest'
import { useRpcServer } from '../../../../test/support/rpc-bench.js'

const isRoot = process.getuid?.() === 0

const bench = useRpcServer()
const { client, serve } = bench

describe('the socket', () => {
  test.skipIf(!isRoot)('belongs to the group with mode 0660 and leaves nothing beside it', async () => {
    await serve({ group: 54_321 })
    const { mode, uid, gid } = lstatSync(bench.socketPath)
    expect([mode & 0o7777, uid, gid]).toEqual([0o660, 0, 54_321])
    expect(readdirSync(bench.directory)).toEqual(['builder.sock'])
  })

  test('takes a group by name and refuses one that does not exist', async () => {
    await expect(serve({ group: 'no-such-group' })).rejects.toMatchObject({ code: 'ISB_CONFIG_INVALID' })
    expect(readdirSync(bench.directory)).toEqual([])
    if (!isRoot) return
    await serve({ group: 'daemon' })
    expect(lstatSync(bench.socketPath).gid).not.toBe(0)
  })

  test.each(['a file', 'a directory', 'a symbolic link', 'a dangling symbolic link'])(
    'is not put in the place of %s',
    async (what) => {
      const other = join(bench.directory, 'other')
      if (what === 'a directory') mkdirSync(bench.socketPath)
      else if (what === 'a file') writeFileSync(bench.socketPath, 'precious')
      else {
        if (what === 'a symbolic link') writeFileSync(other, 'precious')
        symlinkSync(other, bench.socketPath)
      }
      const before = lstatSync(bench.socketPath)
      await expect(serve()).rejects.toMatchObject({ code: 'ISB_ALREADY_EXISTS' })
      expect(lstatSync(bench.socketPath).ino).toBe(before.ino)
      expect(existsSync(other)).toBe(what === 'a symbolic link')
    },
  )

  test('replaces the socket of a daemon that is gone', async () => {
    const child = spawn(process.execPath, [
      '-e',
      'require("net").createServer().listen(process.argv[1], () => console.log("up"))',
      bench.socketPath,
    ])
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(lstatSync(bench.socketPath).isSocket()).toBe(true)
    await serve()
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('is not taken from a daemon that answers', async () => {
    const other = createServer().listen(bench.socketPath)
    await once(other, 'listening')
    try {
      await expect(serve()).rejects.toMatchObject({
        code: 'ISB_ALREADY_EXISTS',
        message: expect.stringContaining('another daemon'),
      })
      expect(existsSync(bench.socketPath)).toBe(true)
    } finally {
      other.close()
    }
  })

  test.skipIf(!isRoot)('does not replace a stale socket of another user', async () => {
    const child = spawn(process.execPath, [
      '-e',
      'require("net").createServer().listen(process.argv[1], () => console.log("up"))',
      bench.socketPath,
    ])
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'exit')
    chownSync(bench.socketPath, 12_345, 12_345)
    await expect(serve()).rejects.toMatchObject({ code: 'ISB_ALREADY_EXISTS' })
    expect(lstatSync(bench.socketPath).uid).toBe(12_345)
  })

  test('goes away with the server, but not one that came in its place', async () => {
    const first = await serve()
    await first.close(0)
    expect(existsSync(bench.socketPath)).toBe(false)
    const second = await serve()
    rmSync(bench.socketPath)
    writeFileSync(bench.socketPath, 'new owner')
    await second.close(0)
    expect(existsSync(bench.socketPath)).toBe(true)
  })
})
