import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect } from './connect.js'

let root: string
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-connect-'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

async function failure(host: string, timeout = '20s'): Promise<{ error: BuilderError; ms: number }> {
  const start = performance.now()
  try {
    const connection = await connect(host, timeout)
    connection.close()
  } catch (error) {
    if (isBuilderError(error)) return { error, ms: performance.now() - start }
    throw error
  }
  throw new Error('it connected')
}

test.each(['1ms', '99ms', '2m1s', '121s', '1h', '', '20', 's', '20x', '1s junk', '-5s', '1e3s'])(
  'a timeout of %j is refused',
  async (timeout) => {
    const { error } = await failure(`unix://${root}/none`, timeout)
    expect(error.code).toBe('ISB_ARGUMENT_INVALID')
    expect(error.message).toBe(`invalid timeout value: ${timeout}, supported range [100ms, 2m0s]`)
  },
)

test.each(['100ms', '2m', '2m0s', '1m59.5s', '0.5s', '1s500ms'])(
  'a timeout of %j is taken',
  async (timeout) => {
    const { error } = await failure(`unix://${root}/none`, timeout)
    expect(error.code).toBe('ISB_DAEMON_UNREACHABLE')
  },
)

describe('a daemon that cannot be reached', () => {
  test.each(['tcp://127.0.0.1:1', '/var/run/x', 'unix://relative', ''])('has no host %j', async (host) => {
    const { error } = await failure(host)
    expect([error.code, error.message]).toEqual(['ISB_DAEMON_UNREACHABLE', `invalid socket path: ${host}`])
  })

  test('has no socket', async () => {
    const { error } = await failure(`unix://${root}/none`)
    expect(error.message).toBe(`invalid socket path: unix://${root}/none`)
    expect(error.hint).toContain('systemctl start isula-build')
  })

  test('has another file in place of its socket', async () => {
    writeFileSync(join(root, 'file'), '')
    const { error } = await failure(`unix://${root}/file`)
    expect(error.message).toBe(`invalid socket path: unix://${root}/file`)
    expect(error.hint).toBe('There is another file at this path.')
  })

  test('has left a socket behind: that is told at once', async () => {
    const path = join(root, 'stale')
    // A process that is killed leaves its socket; a server that is closed does not.
    const { spawnSync } = await import('node:child_process')
    const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`
    spawnSync(process.execPath, ['-e', script])
    const { error, ms } = await failure(`unix://${path}`)
    expect(error.message).toBe(
      `Cannot connect to the isula-builder at unix://${path}. Is the isula-builder running?\nError: connection refused`,
    )
    expect(error.hint).toBe('Start the daemon: systemctl start isula-build')
    expect(ms).toBeLessThan(2000)
  })

  test('takes the connection and says nothing: told when the time is over', async () => {
    const path = join(root, 'silent')
    const open = new Set<Socket>()
    const server = createServer((socket) => open.add(socket))
    await new Promise<void>((resolve) => server.listen(path, resolve))
    try {
      const { error, ms } = await failure(`unix://${path}`, '300ms')
      expect(error.message).toContain('Error: it took the connection but did not answer in time')
      expect(error.hint).toContain('--timeout')
      expect(ms).toBeGreaterThan(250)
      expect(ms).toBeLessThan(2000)
    } finally {
      for (const socket of open) socket.destroy()
      server.close()
    }
  })

  test('speaks another protocol: told within the time', async () => {
    const path = join(root, 'other')
    const server = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')
    })
    await new Promise<void>((resolve) => server.listen(path, resolve))
    try {
      const { error, ms } = await failure(`unix://${path}`, '500ms')
      expect(error.code).toBe('ISB_DAEMON_UNREACHABLE')
      expect(ms).toBeLessThan(2000)
    } finally {
      server.close()
    }
  })
})
