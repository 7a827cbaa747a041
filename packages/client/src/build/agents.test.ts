import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { maxChunk } from '@isula-build/shared/rpc/build-messages.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { AgentForwarder, type AgentFrame, agentSocket } from './agents.js'

let root: string
let socket: string
let server: Server
const accepted = new Set<Socket>()

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'client-agent-'))
  socket = join(root, 'agent.sock')
  server = createServer((connection) => {
    accepted.add(connection)
    connection.on('close', () => accepted.delete(connection))
    connection.pipe(connection)
  })
  await new Promise<void>((resolve) => server.listen(socket, resolve))
})
afterAll(() => {
  server.close()
  rmSync(root, { recursive: true, force: true })
})

function failure(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (isBuilderError(error)) return error.message
    throw error
  }
  throw new Error('nothing failed')
}

describe('--ssh', () => {
  test('names an agent and its socket', () => {
    expect(agentSocket(`a=${socket}`, {})).toEqual({ id: 'a', socket })
    expect(agentSocket('default', { SSH_AUTH_SOCK: socket })).toEqual({ id: 'default', socket })
    expect(agentSocket('a=', { SSH_AUTH_SOCK: socket })).toEqual({ id: 'a', socket })
  })

  test('is refused where there is no agent', () => {
    expect(failure(() => agentSocket('default', {}))).toBe(
      'error runBuild: ssh agent default: SSH_AUTH_SOCK is not set',
    )
    expect(failure(() => agentSocket('=x', {}))).toContain('has no id')
    expect(failure(() => agentSocket('a=/nonexistent/x', {}))).toContain('no such file or directory')
    writeFileSync(join(root, 'key'), '')
    expect(failure(() => agentSocket(`a=${root}/key`, {}))).toContain('is not the socket of an agent')
  })
})

/** A forwarder whose frames are collected. */
function forwarding() {
  const sent: AgentFrame[] = []
  let wake: () => void = () => undefined
  const forwarder = new AgentForwarder(new Map([['default', socket]]), async (frame) => {
    sent.push(frame)
    wake()
  })
  const until = async (done: () => boolean): Promise<void> => {
    while (!done()) await new Promise<void>((resolve) => (wake = resolve))
  }
  const frame = (connection: number, data: string, end = false): AgentFrame => ({
    ...{ agent: 'default', connection, end },
    data: Buffer.from(data),
  })
  const text = (connection: number): string =>
    Buffer.concat(sent.filter((one) => one.connection === connection).map(({ data }) => data)).toString()
  return { forwarder, sent, until, frame, text }
}

describe('the forwarder', () => {
  test('keeps connections apart and closes them when the daemon does', async () => {
    const { forwarder, until, frame, text, sent } = forwarding()
    await forwarder.receive(frame(1, ''))
    await forwarder.receive(frame(2, 'two'))
    await forwarder.receive(frame(1, 'one'))
    await until(() => text(1) === 'one' && text(2) === 'two')
    await forwarder.receive(frame(1, '', true))
    await forwarder.receive(frame(2, '', true))
    while (accepted.size > 0) await new Promise((resolve) => setTimeout(resolve, 5))
    expect(sent.filter(({ end }) => end)).toEqual([])
    forwarder[Symbol.dispose]()
  })

  test('cuts what is larger than a frame', async () => {
    const { forwarder, until, frame, text, sent } = forwarding()
    const much = 'x'.repeat(3 * maxChunk + 5)
    await forwarder.receive(frame(1, much))
    await until(() => text(1).length === much.length)
    expect(Math.max(...sent.map(({ data }) => data.length))).toBeLessThanOrEqual(maxChunk)
    forwarder[Symbol.dispose]()
  })

  test('tells the daemon when the agent has closed, and dials no closed connection again', async () => {
    const { forwarder, until, frame, sent } = forwarding()
    await forwarder.receive(frame(7, 'hello'))
    await until(() => sent.length > 0)
    for (const connection of accepted) connection.destroy()
    await until(() => sent.some(({ end }) => end))
    await forwarder.receive(frame(7, 'late'))
    await forwarder.receive(frame(7, '', true))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(accepted.size).toBe(0)
  })

  test('leaves no connection behind', async () => {
    const { forwarder, until, frame, text, sent } = forwarding()
    await forwarder.receive(frame(1, 'a'))
    await until(() => text(1) === 'a')
    forwarder[Symbol.dispose]()
    while (accepted.size > 0) await new Promise((resolve) => setTimeout(resolve, 5))
    expect(sent.filter(({ end }) => end)).toEqual([])
  })
})
