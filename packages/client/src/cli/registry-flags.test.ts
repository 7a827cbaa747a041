import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import { durationMilliseconds } from './durations.js'
import { parseCommandLine } from './parse.js'
import { compressionOptions, listed, pullPolicy, transferOptions } from './registry-flags.js'
import { program } from './tree.js'

const transfer = (...argv: readonly string[]) =>
  transferOptions(parseCommandLine(program, ['ctr-img', 'pull', ...argv]).invocation.flags)

function refusal(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (isBuilderError(error, 'ISB_ARGUMENT_INVALID')) return error.message
    throw error
  }
  throw new Error('nothing failed')
}

test('what is not given is left to the daemon', () => {
  expect(transfer()).toEqual({ tlsVerify: undefined, retries: undefined, retryDelay: undefined })
})

test.each([
  ['2s', 2000],
  ['500ms', 500],
  ['1m30s', 90_000],
  ['1.5', 1500],
  ['3', 3000],
  ['0', 0],
])('a delay of %s is %d ms', (text, retryDelay) => {
  expect(transfer('--retry-delay', text, '--retry=0', '--tls-verify=false')).toEqual({
    tlsVerify: false,
    retries: 0,
    retryDelay,
  })
})

test.each(['', '-1', '2x', '2s3', 's', '61m', '99999999', '1e3', 'NaN'])('%j is no delay', (text) => {
  expect(refusal(() => transfer(`--retry-delay=${text}`))).toContain('for "--retry-delay" flag')
})

test.each(['', '-1', 'x', '1.5', '12345678'])('%j is no number of attempts', (text) => {
  expect(refusal(() => transfer(`--retry=${text}`))).toContain('for "--retry" flag: a number expected')
})

test('durations are Go’s', () => {
  expect(['1h', '1m1s1ms', '', '1', 'm', '1s '].map(durationMilliseconds)).toEqual([
    3_600_000,
    61_001,
    undefined,
    undefined,
    undefined,
    undefined,
  ])
})

test('a compression has a level that it knows', () => {
  expect(compressionOptions('')).toEqual({ compression: '', level: undefined })
  expect(compressionOptions('gzip')).toEqual({ compression: 'gzip', level: undefined })
  expect(compressionOptions('zstd:19')).toEqual({ compression: 'zstd', level: 19 })
  for (const text of ['lzma', 'constructor', 'gzip:1:2', ':3']) {
    expect(refusal(() => compressionOptions(text))).toBe(
      `compression ${JSON.stringify(text)} is not supported`,
    )
  }
  for (const text of ['gzip:0', 'gzip:10', 'zstd:20', 'zstd:', 'zstd:x', 'zstd:-1', 'zstd:1.5']) {
    expect(refusal(() => compressionOptions(text))).toMatch(/^compression level ".*" is not supported$/)
  }
})

test('a pull policy is one of four, or what others call two of them', () => {
  expect(
    ['missing', 'newer', 'always', 'never', 'true', 'false'].map((text) => pullPolicy(text, 'pull')),
  ).toEqual(['missing', 'newer', 'always', 'never', 'always', 'missing'])
  expect(refusal(() => pullPolicy('sometimes', 'pull'))).toBe(
    'invalid argument "sometimes" for "--pull" flag: missing, newer, always, never expected',
  )
})

test('lists are split at commas', () => {
  expect(listed(['linux/amd64,linux/arm64', 'linux/arm/v7', ''])).toEqual([
    'linux/amd64',
    'linux/arm64',
    'linux/arm/v7',
  ])
})
