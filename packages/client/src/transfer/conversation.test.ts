import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import type { Logins } from '../credentials/logins.js'
import { type AskingCall, conversation, prefixed } from './conversation.js'

type Event = { readonly case: 'log'; readonly value: string }
type Answer = Parameters<AskingCall<string, Event>['write']>[0]

/** A daemon that asks for these hosts, and says what it got. */
function daemon(hosts: readonly string[]) {
  const written: Answer[] = []
  let wake: () => void = () => undefined
  let over = ''
  const call: AskingCall<string, Event> = {
    responses: (async function* () {
      yield { event: { case: 'log', value: 'hello' } } as const
      for (const [question, host] of hosts.entries()) {
        yield {
          event: { case: 'needCredentials', value: { question, host, repository: 'r', named: '' } },
        } as const
      }
      while (written.length <= hosts.length) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
        if (over === 'cancelled') throw new BuilderError('ISB_CANCELLED', 'cancelled')
      }
      yield { event: undefined }
      yield { event: { case: 'log', value: 'bye' } } as const
    })(),
    async write(request) {
      written.push(request)
      wake()
      return true
    },
    end() {
      over ||= 'ended'
    },
    cancel() {
      over = 'cancelled'
      wake()
    },
  }
  return { call, written, over: () => over }
}

async function all(call: AskingCall<string, Event>, logins: Logins): Promise<readonly string[]> {
  const lines: string[] = []
  for await (const { value } of conversation(call, 'the options', logins)) lines.push(value)
  return lines
}

test('questions are answered, and everything else is passed on', async () => {
  const { call, written, over } = daemon(['known', 'other'])
  const login = { username: 'u', password: 'p', explicit: true }
  const lines = await all(call, async (host) => (host === 'known' ? login : undefined))
  expect(lines).toEqual(['hello', 'bye'])
  expect(written[0]).toEqual({ payload: { case: 'options', value: 'the options' } })
  expect(written.slice(1).map(({ payload }) => payload.value)).toEqual(
    expect.arrayContaining([
      { question: 0, credentials: { username: 'u', password: 'p' }, explicit: true },
      { question: 1 },
    ]),
  )
  expect(over()).toBe('ended')
})

test('what goes wrong while answering ends the call and is its error', async () => {
  const { call, over } = daemon(['known'])
  const broken: Logins = () => Promise.reject(new Error('the vault is locked'))
  await expect(all(call, broken)).rejects.toThrow('the vault is locked')
  expect(over()).toBe('cancelled')
})

test('a prefix keeps everything else of an error', async () => {
  const error = new BuilderError('ISB_REGISTRY_DENIED', 'no', { hint: 'log in' })
  const told = await Promise.reject(error)
    .catch(prefixed('pull image failed: '))
    .catch((reason: unknown) => reason)
  expect(told).toMatchObject({
    code: 'ISB_REGISTRY_DENIED',
    message: 'pull image failed: no',
    hint: 'log in',
  })
  const other = new Error('bug')
  expect(() => prefixed('x')(other)).toThrow(other)
})
