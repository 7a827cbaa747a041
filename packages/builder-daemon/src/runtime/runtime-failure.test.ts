import { expect, test } from 'vitest'
import { runtimeFailure } from './runtime-failure.js'

const entry = (msg: string, level = 'error'): string => JSON.stringify({ level, msg, time: 'now' })

test.each([
  [
    'runc run failed: unable to start container process: exec: "foo": executable file not found in $PATH',
    127,
    'exec: "foo": executable file not found in $PATH',
  ],
  [
    'runc run failed: unable to start container process: exec: "/x": stat /x: no such file or directory',
    127,
    'exec: "/x": stat /x: no such file or directory',
  ],
  [
    'runc run failed: unable to start container process: exec: "/etc": permission denied',
    126,
    'exec: "/etc": permission denied',
  ],
  [
    'executable file `foo` not found in $PATH: No such file or directory',
    127,
    'exec: executable file `foo` not found in $PATH: No such file or directory',
  ],
  [
    'runc run failed: unable to apply cgroup configuration: mkdir /sys/fs/cgroup/x: no such file or directory',
    125,
    'the container could not be started: unable to apply cgroup configuration: mkdir /sys/fs/cgroup/x: no such file or directory',
  ],
])('%s', (said, exitCode, message) => {
  expect(runtimeFailure(`${entry('a warning', 'warning')}\n${entry(said)}\n`, '')).toEqual({
    exitCode,
    message,
  })
})

test('a runtime that died without a log is quoted, or said to have failed', () => {
  expect(runtimeFailure('{"level":"err', 'first\nfatal error: out of memory\n').message).toBe(
    'the container could not be started: fatal error: out of memory',
  )
  expect(runtimeFailure('', '')).toEqual({ exitCode: 125, message: 'the container could not be started' })
})

test('no log makes it throw', () => {
  const parts = [
    '{',
    '}',
    '"level"',
    ':',
    '"error"',
    ',',
    '"msg"',
    'null',
    '[',
    '\n',
    'exec: "',
    '1',
    '\\u0000',
  ]
  for (let seed = 1; seed < 5000; seed += 1) {
    const random = randomFrom(seed)
    const text = Array.from({ length: random(30) }, () => parts[random(parts.length)]).join('')
    expect([125, 126, 127], `seed ${seed}`).toContain(runtimeFailure(text, text).exitCode)
  }
})

/** The same numbers from 0 to `limit - 1` for the same seed (xorshift32). */
function randomFrom(seed: number): (limit: number) => number {
  let state = (seed * 2654435761) >>> 0 || 1
  return (limit) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % Math.max(1, limit)
  }
}
