import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { controlService } from '@isula-build/shared/rpc/control.js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Logger } from '../ports/logger.js'
import { createBuilderService } from './builder-service.js'
import { createControlService } from './control-service.js'
import { createFakeCore, type FakeCore } from './fake-core.js'
import { createRpcServer, type RpcServer, type RpcServerOptions } from './server.js'
import { connectClient, type TestClient } from './test-client.js'

const isRoot = process.getuid?.() === 0

let directory = ''
let socketPath = ''
let core: FakeCore
let server: RpcServer | undefined
let logged: { level: string; event: string; fields: Record<string, unknown> | undefined }[] = []
const clients: TestClient[] = []

const record = (level: string) => (event: string, fields?: Record<string, unknown>) => {
  logged.push({ level, event, fields })
}
const log: Logger = {
  debug: record('debug'),
  info: record('info'),
  warn: record('warn'),
  error: record('error'),
}

async function serve(options: Partial<RpcServerOptions> = {}): Promise<RpcServer> {
  server = await createRpcServer({
    socketPath,
    group: undefined,
    services: [createControlService(core), createBuilderService(core)],
    log,
    ...options,
  })
  return server
}

function client(): TestClient {
  const made = connectClient(socketPath)
  clients.push(made)
  return made
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isb-rpc-'))
  chmodSync(directory, 0o755)
  socketPath = join(directory, 'builder.sock')
  core = createFakeCore()
  logged = []
})

afterEach(async () => {
  for (const one of clients.splice(0)) one.close()
  await server?.close(0)
  server = undefined
  rmSync(directory, { recursive: true, force: true })
})

describe('the socket', () => {
  test.skipIf(!isRoot)('belongs to the group with mode 0660 and leaves nothing beside it', async () => {
    await serve({ group: 54_321 })
    const { mode, uid, gid } = lstatSync(socketPath)
    expect([mode & 0o7777, uid, gid]).toEqual([0o660, 0, 54_321])
    expect(readdirSync(directory)).toEqual(['builder.sock'])
  })

  test('takes a group by name and refuses one that does not exist', async () => {
    await expect(serve({ group: 'no-such-group' })).rejects.toMatchObject({ code: 'ISB_CONFIG_INVALID' })
    expect(readdirSync(directory)).toEqual([])
    if (!isRoot) return
    await serve({ group: 'daemon' })
    expect(lstatSync(socketPath).gid).not.toBe(0)
  })

  test.each(['a file', 'a directory', 'a symbolic link', 'a dangling symbolic link'])(
    'is not put in the place of %s',
    async (what) => {
      const other = join(directory, 'other')
      if (what === 'a directory') mkdirSync(socketPath)
      else if (what === 'a file') writeFileSync(socketPath, 'precious')
      else {
        if (what === 'a symbolic link') writeFileSync(other, 'precious')
        symlinkSync(other, socketPath)
      }
      const before = lstatSync(socketPath)
      await expect(serve()).rejects.toMatchObject({ code: 'ISB_ALREADY_EXISTS' })
      expect(lstatSync(socketPath).ino).toBe(before.ino)
      expect(existsSync(other)).toBe(what === 'a symbolic link')
    },
  )

  test('replaces the socket of a daemon that is gone', async () => {
    const child = spawn(process.execPath, [
      '-e',
      'require("net").createServer().listen(process.argv[1], () => console.log("up"))',
      socketPath,
    ])
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(lstatSync(socketPath).isSocket()).toBe(true)
    await serve()
    expect(await client().unary(controlService.HealthCheck, {})).toEqual({ status: 'SERVING' })
  })

  test('is not taken from a daemon that answers', async () => {
    const other = createServer().listen(socketPath)
    await once(other, 'listening')
    try {
      await expect(serve()).rejects.toMatchObject({
        code: 'ISB_ALREADY_EXISTS',
        message: expect.stringContaining('another daemon'),
      })
      expect(existsSync(socketPath)).toBe(true)
    } finally {
      other.close()
    }
  })

  test.skipIf(!isRoot)('does not replace a stale socket of another user', async () => {
    const child = spawn(process.execPath, [
      '-e',
      'require("net").createServer().listen(process.argv[1], () => console.log("up"))',
      socketPath,
    ])
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'exit')
    chownSync(socketPath, 12_345, 12_345)
    await expect(serve()).rejects.toMatchObject({ code: 'ISB_ALREADY_EXISTS' })
    expect(lstatSync(socketPath).uid).toBe(12_345)
  })

  test('goes away with the server, but not one that came in its place', async () => {
    const first = await serve()
    await first.close(0)
    expect(existsSync(socketPath)).toBe(false)
    const second = await serve()
    rmSync(socketPath)
    writeFileSync(socketPath, 'new owner')
    await second.close(0)
    expect(existsSync(socketPath)).toBe(true)
  })
})
