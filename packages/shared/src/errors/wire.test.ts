import { describe, expect, test } from 'vitest'
import { BuilderError } from './builder-error.js'
import { codes, type ErrorCode } from './codes.js'
import { decodeError, encodeError, errorOfStatus, errorTrailer, grpcStatus, maxErrorBytes } from './wire.js'

const full = new BuilderError('ISB_STEP_FAILED', 'it broke: ü€😀', {
  hint: 'Do better.',
  source: {
    file: 'Dockerfile',
    start: { line: 3, column: 0 },
    end: { line: 3, column: 8 },
    lines: ['RUN make'],
  },
  step: '[build 3/7] RUN make',
  exitCode: 0,
  logTail: ['a', ''],
})

describe('an error on the wire', () => {
  test('arrives whole', () => {
    const arrived = decodeError(encodeError(full))
    expect(arrived).toBeInstanceOf(BuilderError)
    expect(arrived?.code).toBe(full.code)
    expect(arrived?.message).toBe(full.message)
    expect(arrived?.details).toEqual(full.details)
  })

  test('brings the hint of its code along, and no exit code when there is none', () => {
    const arrived = decodeError(encodeError(new BuilderError('ISB_CONTEXT_CHANGED', 'x')))
    expect(arrived?.hint).toBe(codes.ISB_CONTEXT_CHANGED.hint)
    expect(arrived?.details.exitCode).toBeUndefined()
  })

  test('of every code keeps its code and has a gRPC status', () => {
    for (const code of Object.keys(codes) as ErrorCode[]) {
      const error = new BuilderError(code, 'x')
      expect(decodeError(encodeError(error))?.code).toBe(code)
      expect(grpcStatus(error).code).toBeGreaterThan(0)
    }
  })

  test('never exceeds its limit, giving up what matters least first', () => {
    const log = Array.from({ length: 100 }, (_, index) => `${index} ${'x'.repeat(1000)}`)
    const longLog = encodeError(new BuilderError('ISB_STEP_FAILED', 'm', { ...full.details, logTail: log }))
    expect(longLog.length).toBeLessThanOrEqual(maxErrorBytes)
    expect(decodeError(longLog)?.details.logTail).toHaveLength(20)
    expect(decodeError(longLog)?.details.logTail?.at(-1)).toMatch(/^99 /)

    const huge = '€'.repeat(1 << 20)
    const lines = Array.from({ length: 1000 }, () => huge.slice(0, 1000))
    const range = { start: { line: 1, column: 0 }, end: { line: 1000, column: 0 } }
    const all = new BuilderError('ISB_DOCKERFILE_SYNTAX', huge, {
      hint: huge,
      step: huge,
      logTail: [huge, huge],
      source: { ...range, file: huge, lines },
    })
    const bytes = encodeError(all)
    expect(bytes.length).toBeLessThanOrEqual(maxErrorBytes)
    expect(decodeError(bytes)?.code).toBe('ISB_DOCKERFILE_SYNTAX')
    expect(decodeError(bytes)?.message).toMatch(/^€+…$/)
    expect(encodeURI(grpcStatus(all).details).length).toBeLessThan(8192)
  })

  test('survives text that is no Unicode, and hides credentials', () => {
    const error = new BuilderError('ISB_DOWNLOAD_FAILED', 'https://user:pa\ud800ss@host/x failed', {
      logTail: ['http://t0ken@h'],
    })
    const arrived = decodeError(encodeError(error))
    expect(arrived?.message).toBe('https://***@host/x failed')
    expect(arrived?.details.logTail).toEqual(['http://***@h'])
    expect(grpcStatus(new BuilderError('ISB_INTERNAL', '\udfff')).details).toBe('\ufffd')
  })

  test('of a newer daemon becomes an internal one with its message, and junk none', () => {
    const unknown = Buffer.concat([
      Buffer.from([0x0a, 5]),
      Buffer.from('ISB_X'),
      Buffer.from([0x12, 1, 0x6d]),
    ])
    expect(decodeError(unknown)).toMatchObject({ code: 'ISB_INTERNAL', message: 'm' })
    expect(decodeError(Buffer.from([0x0a, 0xff]))).toBeUndefined()
  })
})

describe('a failed call', () => {
  test('gives the error of its trailer', () => {
    const metadata = { get: (key: string) => (key === errorTrailer ? [encodeError(full)] : []) }
    expect(errorOfStatus({ code: 9, details: 'it broke', metadata })).toMatchObject({
      code: 'ISB_STEP_FAILED',
      details: full.details,
    })
  })

  test.each([
    [1, 'ISB_CANCELLED'],
    [4, 'ISB_DAEMON_UNREACHABLE'],
    [8, 'ISB_LIMIT_EXCEEDED'],
    [12, 'ISB_UNSUPPORTED'],
    [14, 'ISB_DAEMON_UNREACHABLE'],
    [13, 'ISB_INTERNAL'],
    [2, 'ISB_INTERNAL'],
  ])('of bare status %i is %s', (code, expected) => {
    expect(errorOfStatus({ code, details: 'd' })).toMatchObject({ code: expected, message: 'd' })
    const metadata = { get: () => ['not bytes'] }
    expect(errorOfStatus({ code, details: 'd', metadata }).code).toBe(expected)
  })
})
