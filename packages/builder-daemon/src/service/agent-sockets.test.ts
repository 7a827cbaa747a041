import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { createChannel } from '../rpc/channel.js'
import type { AgentConnection } from '../rpc/handlers.js'
import { createAgentSockets } from './agent-sockets.js'

let root: string
let directory: string
let count = 0
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'agent-sockets-'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))
beforeEach(() => {
  // Far longer than the address of a socket may be.
  directory = join(root, 'long'.repeat(40), String(count++))
})

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined }

/** An agent on the client's side that answers every message with it and its number. */
function client() {
  const opened: string[] = []
  const closed: string[] = []
  const openAgent = (id: string): AgentConnection => {
    const received = createChannel<Uint8Array>(4)
    const number = opened.push(id)
    return {
      received,
      async send(data) {
        await received.push(Buffer.from(`${number}:${Buffer.from(data).toString()}`))
        if (data.toString().includes('bye')) received.close()
      },
      async close() {
        closed.push(id)
        received.close()
      },
    }
  }
  return { openAgent, opened, closed }
}

function dial(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    // Through a short name of the directory, as a bind mount has one.
    const { dir, base } = {
      dir: path.slice(0, path.lastIndexOf('/')),
      base: path.slice(path.lastIndexOf('/')),
    }
    const previous = process.cwd()
    process.chdir(dir)
    const socket = createConnection(`.${base}`)
    process.chdir(previous)
    socket.once('connect', () => resolve(socket))
    socket.once('error', reject)
  })
}

async function ask(socket: Socket, text: string): Promise<string> {
  const answer = new Promise<string>((resolve) => socket.once('data', (data) => resolve(data.toString())))
  socket.write(text)
  return await answer
}

test('connections reach the agent of their id, each its own', async () => {
  const agent = client()
  await using sockets = createAgentSockets({ directory, ids: ['a', 'b'], client: agent, log })
  const owner = { mode: 0o600, uid: 0, gid: 0 }
  const [a, b] = [await sockets.open('a', owner), await sockets.open('b', owner)]
  if (a === undefined || b === undefined) throw new Error('no socket')
  const [first, second, third] = [await dial(a), await dial(a), await dial(b)]
  expect(await ask(first, 'x')).toBe('1:x')
  expect(await ask(second, 'y')).toBe('2:y')
  expect(await ask(first, 'z')).toBe('1:z')
  expect(await ask(third, 'w')).toBe('3:w')
  expect(agent.opened).toEqual(['a', 'a', 'b'])
})

test('an id that the client does not offer has no socket', async () => {
  await using sockets = createAgentSockets({ directory, ids: [], client: client(), log })
  expect(await sockets.open('a', { mode: 0o600, uid: 0, gid: 0 })).toBeUndefined()
  expect(existsSync(directory)).toBe(false)
})

test('a socket has the mode and owner that were asked for, and equal wishes share one', async () => {
  await using sockets = createAgentSockets({ directory, ids: ['a'], client: client(), log })
  const uid = process.getuid?.() === 0 ? 123 : (process.getuid?.() ?? 0)
  const owners = [
    { mode: 0o600, uid, gid: process.getgid?.() ?? 0 },
    { mode: 0o660, uid, gid: process.getgid?.() ?? 0 },
  ]
  const paths = await Promise.all([...owners, ...owners].map((owner) => sockets.open('a', owner)))
  expect(new Set(paths).size).toBe(2)
  for (const [i, { mode }] of owners.entries()) {
    const stat = statSync(paths[i] ?? '')
    expect([stat.mode & 0o777, stat.uid]).toEqual([mode, uid])
  }
  expect(statSync(directory).mode & 0o777).toBe(0o700)
})

test('an end on either side ends the other', async () => {
  const agent = client()
  await using sockets = createAgentSockets({ directory, ids: ['a'], client: agent, log })
  const path = (await sockets.open('a', { mode: 0o600, uid: 0, gid: 0 })) ?? ''
  const asked = await dial(path)
  const over = new Promise((resolve) => asked.once('close', resolve))
  expect(await ask(asked, 'bye')).toBe('1:bye')
  await over
  const left = await dial(path)
  expect(await ask(left, 'x')).toBe('2:x')
  left.destroy()
  while (agent.closed.length < 2) await new Promise((resolve) => setTimeout(resolve, 5))
})

test('disposing closes connections and removes everything, with a RUN in the middle of a question', async () => {
  const agent = client()
  const sockets = createAgentSockets({ directory, ids: ['a'], client: agent, log })
  const path = (await sockets.open('a', { mode: 0o600, uid: 0, gid: 0 })) ?? ''
  const descriptors = readdirSync('/proc/self/fd').length
  const socket = await dial(path)
  expect(await ask(socket, 'x')).toBe('1:x')
  const over = new Promise((resolve) => socket.once('close', resolve))
  await sockets[Symbol.asyncDispose]()
  await over
  expect(existsSync(directory)).toBe(false)
  while (readdirSync('/proc/self/fd').length >= descriptors) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
})

test('connections beyond the limit are refused and the others go on', async () => {
  const agent = client()
  await using sockets = createAgentSockets({ directory, ids: ['a'], client: agent, log })
  const path = (await sockets.open('a', { mode: 0o600, uid: 0, gid: 0 })) ?? ''
  const all: Socket[] = []
  for (let i = 0; i < 40; i++) {
    const socket = await dial(path)
    socket.on('error', () => undefined)
    all.push(socket)
  }
  const [first] = all
  if (first === undefined) throw new Error('nothing connected')
  expect(await ask(first, 'x')).toBe('1:x')
  expect(agent.opened).toHaveLength(32)
  for (const socket of all) socket.destroy()
})
