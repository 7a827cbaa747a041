import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { receiveNotifications } from '../../../../test/support/notify-receiver.js'
import { notifyManager } from './notify.js'

let directory = ''
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-notify-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

test('a state arrives as one datagram', async () => {
  const path = join(directory, 'notify')
  await using receiver = await receiveNotifications(path, '/nowhere')
  notifyManager('READY=1', path)
  notifyManager('STOPPING=1\nSTATUS=draining', path)
  expect(await receiver.next()).toBe('READY=1 silent')
  expect(await receiver.next()).toBe('STOPPING=1 STATUS=draining silent')
})

test('an abstract address is reached', async () => {
  const address = `@isula-notify-${process.pid}`
  await using receiver = await receiveNotifications(address, '/nowhere')
  notifyManager('READY=1', address)
  expect(await receiver.next()).toBe('READY=1 silent')
})

test('without a manager nothing happens', () => {
  expect(() => notifyManager('READY=1', undefined)).not.toThrow()
  expect(() => notifyManager('READY=1', '')).not.toThrow()
})

test('a manager that is gone is an error naming its socket', () => {
  const path = join(directory, 'gone')
  expect(() => notifyManager('READY=1', path)).toThrow(path)
})
