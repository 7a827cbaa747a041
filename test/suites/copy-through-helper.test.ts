import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { createCallerFiles } from '../../packages/builder-daemon/src/identity/caller-files.js'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { createDirectReader } from '../../packages/builder-daemon/src/layer/copy/direct-reader.js'
import { createHelperReader } from '../../packages/builder-daemon/src/layer/copy/helper-reader.js'
import type { SourceReader } from '../../packages/builder-daemon/src/layer/copy/source-reader.js'
import type { Caller, CallerFiles, ContextHandle } from '../../packages/builder-daemon/src/ports/caller.js'
import type { CopyParams } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { packetPair } from '../../packages/builder-daemon/src/system/sockets.js'
import { bundleEntry } from '../support/bundled-worker.js'
import { silentLogger } from '../support/silent-logger.js'

const isRoot = process.getuid?.() === 0
const caller: Caller = { uid: 12345, gid: 12345, groups: [], pid: 1, sameMountNamespace: true }

describe.skipIf(!isRoot)('a build context of another user (needs root)', () => {
  let base: string
  let context: string
  let files: CallerFiles & AsyncDisposable
  let handle: ContextHandle

  beforeEach(async () => {
    const entry = await bundleEntry('packages/builder-daemon/src/workers/identity-helper.ts')
    base = mkdtempSync(join(tmpdir(), 'copy-helper-'))
    chmodSync(base, 0o755)
    context = join(base, 'context')
    mkdirSync(context)
    files = createCallerFiles({ helperEntry: fileURLToPath(entry), log: silentLogger, idleMs: 60_000 })
    handle = await files.openDirectory(caller, context)
  })
  afterEach(async () => {
    vi.restoreAllMocks()
    await handle[Symbol.asyncDispose]()
    await files[Symbol.asyncDispose]()
    rmSync(base, { recursive: true, force: true })
  })

  function params(pattern: string, access: 'direct' | 'helper', fd: number): CopyParams {
    const upper = join(mkdtempSync(join(base, 'staging-')), 'upper')
    mkdirSync(upper)
    return {
      upper,
      lowers: [],
      instruction: 'COPY',
      inputs: [
        {
          kind: 'tree',
          root: { access, fd },
          pattern,
          unpack: false,
          ignore: [],
          ignoreFile: undefined,
          isContext: true,
        },
      ],
      destination: 'x' as CopyParams['destination'],
      intoDirectory: true,
      chown: undefined,
      chmod: undefined,
      link: false,
      parents: false,
      excludes: [],
      fixedTime: 1,
    }
  }

  const code = (error: unknown) => (error as { code?: string }).code

  function failure(pattern: string): unknown {
    try {
      copyJob(params(pattern, 'helper', handle.fd))
    } catch (error) {
      return error
    }
    throw new Error('the copy succeeded')
  }

  test('is remembered by its helper as one that is read directly', () => {
    const now = Date.now.bind(Date)
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 10_000)
    mkdirSync(join(context, 'd/e'), { recursive: true })
    for (let index = 0; index < 300; index += 1) writeFileSync(join(context, `d/e/${index}`), `file ${index}`)
    execFileSync('setfattr', ['-n', 'user.a', '-v', '0x00ff', join(context, 'd/e/2')])
    const remembered = (ignore: readonly string[]) => {
      const plain = params('d', 'helper', handle.fd)
      const statTables = join(base, 'stat', String(caller.uid))
      const inputs = plain.inputs.map((input) => ({
        ...input,
        ignore,
        root: { access: 'helper', fd: handle.fd, statTables },
      }))
      return {
        plain: { ...plain, inputs: plain.inputs.map((input) => ({ ...input, ignore })) },
        params: { ...plain, inputs } as CopyParams,
      }
    }
    for (const ignore of [[], ['**/1', 'd/é']]) {
      const { plain, params } = remembered(ignore)
      const { contentKey } = digestSourcesJob(plain as CopyParams)
      expect(digestSourcesJob(params).contentKey).toBe(contentKey)
      expect(copyJob({ ...params, upper: plain.upper }).contentKey).toBe(contentKey)
      // Nothing is opened any more: what the caller may not read now he could read when it was remembered.
      rmSync(join(context, 'd/e/1'))
      writeFileSync(join(context, 'd/e/1'), 'file 1')
      const known = digestSourcesJob(params).contentKey
      expect(known).toBe(contentKey)
      writeFileSync(join(context, 'd/e/2'), `other ${ignore.length}`)
      expect(digestSourcesJob(params).contentKey).not.toBe(contentKey)
      expect(digestSourcesJob(params).contentKey).toBe(digestSourcesJob(plain as CopyParams).contentKey)
    }
  })

  test('of a file that the caller may not read any more is not taken from what is remembered', () => {
    const now = Date.now.bind(Date)
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 10_000)
    writeFileSync(join(context, 'f'), 'secret')
    const plain = params('f', 'helper', handle.fd)
    const root = { access: 'helper', fd: handle.fd, statTables: join(base, 'stat') }
    const remembering = { ...plain, inputs: plain.inputs.map((input) => ({ ...input, root })) } as CopyParams
    digestSourcesJob(remembering)
    chmodSync(join(context, 'f'), 0)
    expect(() => digestSourcesJob(remembering)).toThrow('you may not read')
    chmodSync(context, 0o700)
    expect(() => digestSourcesJob(remembering)).toThrow('the process that reads the build context is gone')
  })

  test('is copied exactly as if it were read directly', () => {
    mkdirSync(join(context, 'd/empty'), { recursive: true })
    for (let index = 0; index < 700; index += 1) writeFileSync(join(context, `d/${index}`), `file ${index}`)
    writeFileSync(join(context, 'd/big'), Buffer.alloc(5_000_000, 'abc'))
    writeFileSync(Buffer.concat([Buffer.from(`${context}/d/`), Buffer.from([0xff])]), 'no UTF-8')
    symlinkSync('0', join(context, 'd/link'))
    execFileSync('ln', [join(context, 'd/1'), join(context, 'd/hard')])
    execFileSync('setfattr', ['-n', 'user.a', '-v', '0x00ff', join(context, 'd/2')])
    execFileSync('mkfifo', [join(context, 'd/fifo')])
    const direct = openSync(context, 'r')
    const expected = copyJob(params('d', 'direct', direct))
    closeSync(direct)
    const through = params('d', 'helper', handle.fd)
    expect(digestSourcesJob(through).contentKey).toBe(expected.contentKey)
    expect(copyJob(through)).toEqual(expected)
  })

  test('several readers use one context at a time', () => {
    writeFileSync(join(context, 'a'), 'a')
    const first = createHelperReader(handle.fd)
    const second = createHelperReader(handle.fd)
    expect(first.list('').map(({ name }) => name)).toEqual(['a'])
    expect(second.stat('a')?.size).toBe(1)
    expect(first.stat('b')).toBeUndefined()
    first.close()
    expect(second.list('').length).toBe(1)
    second.close()
  })

  test('gives only what its user may read', () => {
    writeFileSync(join(context, 'secret'), 's', { mode: 0o600 })
    mkdirSync(join(context, 'closed'), { mode: 0o700 })
    writeFileSync(join(context, 'closed/f'), 'f')
    expect(failure('secret')).toMatchObject({
      code: 'ISB_PERMISSION_DENIED',
      message: 'you may not read /secret of the build context',
    })
    expect(code(failure('closed'))).toBe('ISB_PERMISSION_DENIED')
    expect(code(failure('closed/f'))).toBe('ISB_PERMISSION_DENIED')
    chownSync(join(context, 'secret'), caller.uid, caller.uid)
    expect(copyJob(params('secret', 'helper', handle.fd)).entries).toBe(2)
  })

  test('links lead nowhere outside', () => {
    symlinkSync('/etc', join(context, 'link'))
    expect(code(failure('link/passwd'))).toBe('ISB_CONTEXT_NOT_FOUND')
    const reader = createHelperReader(handle.fd)
    expect(reader.stat('link/passwd')).toBeUndefined()
    expect(() => reader.open('link/passwd')).toThrow(expect.objectContaining({ code: 'ISB_CONTEXT_CHANGED' }))
    expect(reader.stat('../etc/passwd')).toBeUndefined()
    reader.close()
  })

  test('files of the kernel below it are not read', async () => {
    await using slash = await files.openDirectory(caller, '/')
    const reader = createHelperReader(slash.fd)
    try {
      for (const path of ['proc/version', 'sys/kernel/uevent_seqnum']) {
        expect(() => reader.open(path)).toThrow(expect.objectContaining({ code: 'ISB_PERMISSION_DENIED' }))
      }
      expect(() => reader.open('dev/null')).toThrow(expect.objectContaining({ code: 'ISB_CONTEXT_CHANGED' }))
    } finally {
      reader.close()
    }
  })

  test('a helper that stops answering can be given up, one that is gone is an error', async () => {
    writeFileSync(join(context, 'a'), 'a')
    const pid = execFileSync('pgrep', ['-P', String(process.pid), '-f', '^isula-builder-identity'])
      .toString()
      .trim()
    process.kill(Number(pid), 'SIGSTOP')
    let checks = 0
    const control = {
      check() {
        checks += 1
        if (checks === 3) throw new Error('given up')
      },
    }
    const reader = createHelperReader(handle.fd, control)
    expect(() => reader.list('')).toThrow('given up')
    reader.close()
    process.kill(Number(pid), 'SIGKILL')
    await expect.poll(() => code(failure('a')), { timeout: 5000 }).toBe('ISB_CONTEXT_INVALID')
  })
})

describe('a context on a file system that may hang', () => {
  let base: string
  let reader: SourceReader
  let server: Worker
  let sockets: readonly [number, number]

  beforeEach(async () => {
    base = mkdtempSync(join(tmpdir(), 'stream-'))
    sockets = packetPair()
    const entry = await bundleEntry('test/support/remote-source-server.ts')
    server = new Worker(entry, {
      workerData: { socket: sockets[1], directory: base },
      trackUnmanagedFds: false,
    })
    reader = createHelperReader(sockets[0])
  })
  afterEach(async () => {
    reader.close()
    closeSync(sockets[0])
    await server.terminate()
    closeSync(sockets[1])
    rmSync(base, { recursive: true, force: true })
  })

  test('is read by the helper and streamed', () => {
    const content = Buffer.alloc(1_500_000, 'stream')
    writeFileSync(join(base, 'big'), content)
    writeFileSync(join(base, 'empty'), '')
    reader.prefetch(['big', 'empty'])
    for (const name of ['big', 'empty', 'big']) {
      const file = reader.open(name)
      const parts: Buffer[] = []
      const buffer = Buffer.alloc(100_000)
      for (let count = file.read(buffer); count > 0; count = file.read(buffer)) {
        parts.push(Buffer.from(buffer.subarray(0, count)))
      }
      expect(Buffer.concat(parts).equals(readFileSync(join(base, name)))).toBe(true)
      expect(file.finish()).toEqual({ size: file.size, mtimeNs: file.mtimeNs })
      file.close()
    }
    const direct = openSync(base, 'r')
    expect(reader.list('')).toEqual(createDirectReader(direct).list(''))
    closeSync(direct)
  })

  test('a reader that stops half-way can go on with the next file', () => {
    writeFileSync(join(base, 'big'), Buffer.alloc(3_000_000, 'x'))
    writeFileSync(join(base, 'small'), 'small')
    const big = reader.open('big')
    big.read(Buffer.alloc(10))
    big.close()
    const small = reader.open('small')
    const buffer = Buffer.alloc(10)
    expect(buffer.toString('latin1', 0, small.read(buffer))).toBe('small')
    small.close()
  })
})
