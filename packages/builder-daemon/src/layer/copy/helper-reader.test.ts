import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { sendValue, ValueReceiver } from '../../system/packets.js'
import { pipe2 } from '../../system/processes.js'
import { packetPair, sendMessage } from '../../system/sockets.js'
import { createHelperReader } from './helper-reader.js'
import type { SourceReader } from './source-reader.js'
import { decodeEntry } from './source-wire.js'

// A helper that its own user has made lie: the answers lie ready before the questions are asked.
let base: string
let context: readonly [number, number]
let channel: number
let reader: SourceReader

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'liar-'))
  context = packetPair()
  reader = createHelperReader(context[0])
  const received = new ValueReceiver(context[1], 1 << 20).receive(true)
  if (typeof received === 'string') throw new Error('no channel came')
  channel = received.descriptors[0] ?? -1
})
afterEach(() => {
  reader.close()
  for (const fd of [...context, channel]) closeSync(fd)
  rmSync(base, { recursive: true, force: true })
})

const honest = {
  name: 'f',
  type: 'file',
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: 1,
  nlink: 1,
  mtimeNs: '1',
  ctimeNs: '1',
  dev: '1',
  ino: '1',
  rdevMajor: 0,
  rdevMinor: 0,
  link: '',
  xattrs: [],
}
test.each([
  ['a digest that is too short', { digest: 'ff', latestNs: '1' }],
  ['a digest that is no text', { digest: 5, latestNs: '1' }],
  ['no time', { digest: '0'.repeat(64) }],
  ['a list', []],
])('a scan that gives %s is refused', (_, lie) => {
  sendValue(channel, lie)
  const request = { pattern: '', parents: false, excludes: [], ignore: [] }
  expect(() => reader.scan(request, () => undefined)).toThrow(/malformed answer/)
})

test('a scan that goes on for ever ends when the job is cancelled', () => {
  for (let times = 0; times < 10; times += 1) sendValue(channel, { busy: true })
  let checks = 0
  const request = { pattern: '', parents: false, excludes: [], ignore: [] }
  const scan = () =>
    reader.scan(request, () => {
      checks += 1
      if (checks === 5) throw new Error('enough')
    })
  expect(scan).toThrow('enough')
})

test('patterns that would not fit a question are not asked', () => {
  const request = { pattern: '', parents: false, excludes: [], ignore: ['x'.repeat(100_000)] }
  expect(reader.scan(request, () => undefined)).toBeUndefined()
})

const openDescriptors = () => readdirSync('/proc/self/fd').length

test.each([
  ['a path for a name', { name: '../f' }],
  ['an empty name', { name: '' }],
  ['the parent', { name: '..' }],
  ['a NUL in a name', { name: 'a\0b' }],
  ['an unknown type', { type: 'door' }],
  ['a mode with a type', { mode: 0o100644 }],
  ['a negative size', { size: -1 }],
  ['a size that is no number', { size: '1' }],
  ['a time that is no number', { mtimeNs: 'now' }],
  ['a change time that is no number', { ctimeNs: 5 }],
  ['an inode that is no number', { ino: '0x1' }],
  ['a device that is missing', { dev: undefined }],
  ['a NUL in a link', { link: 'a\0' }],
  ['an endless link', { link: 'a'.repeat(5000) }],
  ['an attribute without a value', { xattrs: [['user.a']] }],
  ['attributes that are no list', { xattrs: {} }],
])('an entry with %s is refused', (_, lie) => {
  expect(() => decodeEntry({ ...honest, ...lie }, false)).toThrow(/malformed answer/)
})

test.each([
  ['twice the same name', ['a', 'a']],
  ['names in disorder', ['b', 'a']],
])('a directory with %s is refused', (_, names) => {
  sendValue(channel, { entries: names.map((name) => ({ ...honest, name })), more: false })
  expect(() => reader.list('')).toThrow('unsorted directory')
})

test('descriptors of anything but regular files are closed and refused', () => {
  const pipe = pipe2()
  const directory = openSync(base, 'r')
  const kernel = openSync('/proc/self/status', 'r')
  const before = openDescriptors()
  for (const fd of [pipe.read, directory, kernel, context[0]]) {
    sendValue(channel, { results: [{ kind: 'descriptor' }] }, [fd])
    expect(() => reader.open('f')).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ISB_/) }))
  }
  expect(openDescriptors()).toBe(before)
  for (const fd of [pipe.read, pipe.write, directory, kernel]) closeSync(fd)
})

test('too few, too many and unasked-for descriptors do no harm', () => {
  writeFileSync(join(base, 'f'), 'f')
  const fd = openSync(join(base, 'f'), 'r')
  const before = openDescriptors()
  sendValue(channel, { results: [{ kind: 'descriptor' }] })
  expect(() => reader.open('f')).toThrow('too few descriptors')
  sendValue(channel, { results: [{ kind: 'descriptor' }] }, [fd, fd, fd])
  reader.open('f').close()
  sendValue(channel, { entries: [], more: false }, [fd, fd])
  expect(reader.list('')).toEqual([])
  sendValue(channel, { size: 1, mtimeNs: '1' }, [])
  expect(openDescriptors()).toBe(before)
  closeSync(fd)
})

test('packets that are no values end the conversation', () => {
  for (const packet of [
    Buffer.from([7]),
    Buffer.from([0]),
    Buffer.from('\0{"entries":'),
    Buffer.from('\0null'),
  ]) {
    sendMessage(channel, packet)
    expect(() => reader.list('')).toThrow()
  }
})

test('an answer that stops in its middle can be given up', () => {
  let checks = 0
  const impatient = createHelperReader(context[0], {
    check() {
      checks += 1
      if (checks > 3) throw new Error('given up')
    },
  })
  const received = new ValueReceiver(context[1], 1 << 20).receive(true)
  const [fd = -1] = typeof received === 'string' ? [] : received.descriptors
  sendMessage(fd, Buffer.from([1, 0x7b]))
  expect(() => impatient.list('')).toThrow('given up')
  impatient.close()
  closeSync(fd)
})

test('errors of the helper are told by what they mean', () => {
  for (const [code, expected] of [
    ['EACCES', 'ISB_PERMISSION_DENIED'],
    ['REFUSED', 'ISB_PERMISSION_DENIED'],
    ['ENOENT', 'ISB_CONTEXT_CHANGED'],
    ['EIO', 'ISB_CONTEXT_INVALID'],
  ]) {
    sendValue(channel, { code })
    expect(() => reader.stat('f')).toThrow(expect.objectContaining({ code: expected }))
  }
})
