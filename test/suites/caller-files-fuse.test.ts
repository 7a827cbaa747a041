import {
  chmodSync,
  closeSync,
  createReadStream,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createCallerFiles } from '../../packages/builder-daemon/src/identity/caller-files.js'
import { createHelperReader } from '../../packages/builder-daemon/src/layer/copy/helper-reader.js'
import { transfer } from '../../packages/builder-daemon/src/layer/copy/transfer.js'
import type { Caller, CallerFiles } from '../../packages/builder-daemon/src/ports/caller.js'
import { MNT_DETACH, MNT_FORCE, mount, umount2 } from '../../packages/builder-daemon/src/system/processes.js'
import { bundleEntry } from '../support/bundled-worker.js'
import { silentLogger } from '../support/silent-logger.js'

const canMount = process.getuid?.() === 0 && existsSync('/dev/fuse')
const content = Buffer.alloc(300_000, 'fuse!')

function caller(uid: number): Caller {
  return { uid, gid: uid, groups: [], pid: 1, sameMountNamespace: true }
}
const user = caller(12345)
const other = caller(12346)

describe.skipIf(!canMount)('files of a caller on FUSE (needs root and /dev/fuse)', () => {
  let base: string
  let mounted: string
  let device: number
  let server: Worker
  let files: CallerFiles & AsyncDisposable

  beforeEach(async () => {
    base = mkdtempSync(join(tmpdir(), 'fuse-'))
    mounted = join(base, 'mounted')
    mkdirSync(mounted)
    chmodSync(base, 0o755)
    device = openSync('/dev/fuse', 'r+')
    mount('test', mounted, 'fuse', 0, `fd=${device},rootmode=40000,user_id=0,group_id=0,allow_other`)
    server = new Worker(await bundleEntry('test/support/fuse-server.ts'), { workerData: { fd: device } })
    const entry = await bundleEntry('packages/builder-daemon/src/workers/identity-helper.ts')
    files = createCallerFiles({ helperEntry: fileURLToPath(entry), log: silentLogger, idleMs: 60_000 })
  })
  afterEach(async () => {
    umount2(mounted, MNT_FORCE | MNT_DETACH)
    await files[Symbol.asyncDispose]()
    await server.terminate()
    closeSync(device)
    rmSync(base, { recursive: true, force: true })
  })

  test('a file is streamed by the helper, so that the daemon never waits for it', async () => {
    const opened = await files.openRead(user, join(mounted, 'file'))
    expect(opened.size).toBe(content.length)
    expect(fstatSync(opened.fd).isFIFO()).toBe(true)
    const parts: Buffer[] = []
    for await (const part of createReadStream('', { fd: opened.fd })) parts.push(part as Buffer)
    expect(Buffer.concat(parts).equals(content)).toBe(true)
  })

  test('a context is read through the helper', async () => {
    await using context = await files.openDirectory(user, mounted)
    const reader = createHelperReader(context.fd)
    try {
      expect(reader.list('').map(({ name }) => name)).toEqual(['file', 'hang'])
      const file = reader.open('file')
      const parts: Buffer[] = []
      transfer(file, 'file', (bytes) => parts.push(Buffer.from(bytes)))
      file.close()
      expect(Buffer.concat(parts).equals(content)).toBe(true)
    } finally {
      reader.close()
    }
  })

  test('nothing is created there', async () => {
    await expect(files.create(user, join(mounted, 'new'), 0o644)).rejects.toMatchObject({
      code: 'ISB_UNSUPPORTED',
    })
  })

  test('a file that hangs keeps only its reader waiting', async () => {
    const hanging = await files.openRead(user, join(mounted, 'hang'))
    const { fd } = await files.openRead(user, '/etc/hostname')
    expect(readFileSync(fd).length).toBeGreaterThan(0)
    closeSync(fd)
    closeSync(hanging.fd)
  })

  test('a path that hangs is given up at once, and its helper is replaced', async () => {
    const abort = new AbortController()
    const stuck = files.openRead(user, join(mounted, 'stuck'), abort.signal)
    stuck.catch(() => undefined)
    closeSync((await files.openRead(other, '/etc/hostname')).fd)
    const behind = files.openRead(user, '/etc/hostname')
    behind.catch(() => undefined)
    const before = Date.now()
    abort.abort()
    await expect(stuck).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(Date.now() - before).toBeLessThan(3000)
    await expect(behind).rejects.toMatchObject({ code: 'ISB_PATH_NOT_FOUND' })
    await expect
      .poll(async () => {
        const { fd } = await files.openRead(user, '/etc/hostname')
        closeSync(fd)
        return true
      })
      .toBe(true)
  })

  test('a context that hangs can be given up, and other users do not notice', async () => {
    const context = await files.openDirectory(user, mounted)
    let checks = 0
    const reader = createHelperReader(context.fd, {
      check() {
        checks += 1
        if (checks > 4) throw new Error('given up')
      },
    })
    expect(() => reader.stat('stuck')).toThrow('given up')
    reader.close()
    await context[Symbol.asyncDispose]()
    closeSync((await files.openRead(other, '/etc/hostname')).fd)
  })
})
