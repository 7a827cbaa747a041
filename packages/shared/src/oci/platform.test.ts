import { describe, expect, test } from 'vitest'
import { formatPlatform, parsePlatform, platformMatches, platformRank } from './platform.js'

const host = { os: 'linux', architecture: 'amd64' }
const parse = (text: string) => formatPlatform(parsePlatform(text, host))

describe('parsePlatform', () => {
  test.each([
    ['linux/amd64', 'linux/amd64'],
    ['Linux/X86_64', 'linux/amd64'],
    ['linux/x86-64/v1', 'linux/amd64'],
    ['linux/amd64/v3', 'linux/amd64/v3'],
    ['linux/i386', 'linux/386'],
    ['linux/aarch64', 'linux/arm64'],
    ['linux/arm64/v8', 'linux/arm64'],
    ['linux/arm64/8', 'linux/arm64'],
    ['linux/arm64/v8.0', 'linux/arm64'],
    ['linux/arm64/9.2', 'linux/arm64/v9.2'],
    ['linux/arm', 'linux/arm/v7'],
    ['linux/arm/6', 'linux/arm/v6'],
    ['linux/armhf', 'linux/arm/v7'],
    ['linux/armel', 'linux/arm/v6'],
    ['linux/loongarch64', 'linux/loong64'],
    ['arm64', 'linux/arm64'],
    ['linux', 'linux/amd64'],
    ['macos/arm64', 'darwin/arm64'],
  ])('%s is %s', (text, formatted) => {
    expect(parse(text)).toBe(formatted)
    expect(parse(formatted)).toBe(formatted)
  })

  test.each([
    '',
    '/',
    'linux/',
    'nonsense',
    'nonsense/amd64',
    'linux/nonsense',
    'linux/amd64/v1/x',
    'linux/*',
    'a b',
  ])('%j is refused', (text) => {
    expect(() => parse(text)).toThrow(
      expect.objectContaining({
        code: 'ISB_PLATFORM_UNSUPPORTED',
        message: expect.stringContaining('platform'),
      }),
    )
  })
})

describe('platformMatches', () => {
  test.each([
    ['linux/amd64', 'linux/amd64', 0],
    ['linux/amd64', 'linux/386', 1],
    ['linux/amd64/v3', 'linux/amd64/v2', 1],
    ['linux/amd64', 'linux/amd64/v2', undefined],
    ['linux/amd64', 'linux/arm64', undefined],
    ['linux/arm64', 'linux/arm64/v8', 0],
    ['linux/arm64/v8.2', 'linux/arm64', 2],
    ['linux/arm64/v9', 'linux/arm64/v8.5', 1],
    ['linux/arm64', 'linux/arm/v7', 2],
    ['linux/arm', 'linux/arm/v6', 1],
    ['linux/arm/v6', 'linux/arm/v7', undefined],
    ['linux/s390x', 'linux/s390x', 0],
    ['linux/amd64', 'windows/amd64', undefined],
  ])('on %s an image for %s has rank %s', (wanted, have, rank) => {
    const [w, h] = [wanted, have].map((text) => parsePlatform(text, host))
    if (w === undefined || h === undefined) throw new Error('unreachable')
    expect(platformRank(w, h)).toBe(rank)
    expect(platformMatches(w, h)).toBe(rank !== undefined)
  })

  test('spelling does not matter', () => {
    const image = { os: 'linux', architecture: 'aarch64', variant: 'v8' }
    expect(platformRank({ os: 'linux', architecture: 'arm64' }, image)).toBe(0)
  })

  test('unknown variants match themselves only', () => {
    const odd = { os: 'linux', architecture: 'arm64', variant: 'odd' }
    expect(platformRank(odd, odd)).toBe(0)
    expect(platformMatches(odd, { os: 'linux', architecture: 'arm64' })).toBe(false)
  })
})
