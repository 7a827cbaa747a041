import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Platform } from '@isula-build/shared/oci/platform.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parseHandler, readHandlers, requireRunnable } from './emulation.js'

const amd64: Platform = { os: 'linux', architecture: 'amd64' }
const arm64: Platform = { os: 'linux', architecture: 'arm64' }
// As the kernel shows what Debian's qemu-user-static registers.
const qemu = (flags: string, machine = 'b700'): string => `enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: ${flags}
offset 0
magic 7f454c460201010000000000000000000200${machine}
mask ffffffffffffff00fffffffffffffffffeffffff
`

let directory = ''
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-binfmt-'))
  write('status', 'enabled\n')
  write('register', '')
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const write = (name: string, content: string): void => writeFileSync(join(directory, name), content)
function refusal(wanted: Platform, host = amd64): BuilderError | undefined {
  try {
    requireRunnable(wanted, host, directory)
    return undefined
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
}

test('the machine runs what it can by itself', () => {
  expect(refusal(amd64)).toBeUndefined()
  expect(refusal({ ...amd64, variant: 'v3' })).toBeUndefined()
  expect(refusal({ os: 'linux', architecture: '386' })).toBeUndefined()
  expect(refusal({ os: 'linux', architecture: 'arm', variant: 'v7' }, arm64)).toBeUndefined()
})

test('an emulator that the kernel holds open runs the rest', () => {
  expect(refusal(arm64)?.message).toBe(
    'cannot RUN programs for linux/arm64 on linux/amd64: the kernel knows no emulator for them',
  )
  expect(refusal(arm64)?.hint).toContain('qemu-user-static')
  write('qemu-aarch64', qemu('POCF'))
  expect(refusal(arm64)).toBeUndefined()
  expect(refusal({ os: 'linux', architecture: 'riscv64' })?.code).toBe('ISB_PLATFORM_UNSUPPORTED')
  expect(refusal(amd64, arm64)?.message).toContain('linux/amd64 on linux/arm64')
})

test('one that has to be in the image is not enough', () => {
  write('qemu-aarch64', qemu('POC'))
  expect(refusal(arm64)).toMatchObject({
    message: expect.stringContaining(
      '/usr/libexec/qemu-binfmt/aarch64-binfmt-P is not there inside of containers',
    ),
    hint: expect.stringContaining('flag F'),
  })
  write('other', qemu('F'))
  expect(refusal(arm64)).toBeUndefined()
})

test('what is switched off or about something else does not count', () => {
  write('qemu-aarch64', qemu('F').replace('enabled', 'disabled'))
  expect(refusal(arm64)).toBeDefined()
  write('qemu-riscv64', qemu('F', 'f300'))
  expect(refusal(arm64)).toBeDefined()
  expect(refusal({ os: 'linux', architecture: 'riscv64' })).toBeUndefined()
  write('python', 'enabled\ninterpreter /usr/bin/python3\nflags: F\nextension .py\n')
  expect(readHandlers(directory)).toHaveLength(1)
  write('status', 'disabled\n')
  expect(refusal({ os: 'linux', architecture: 'riscv64' })).toBeDefined()
})

test('other systems and architectures without a number have no emulator', () => {
  write('qemu-aarch64', qemu('F'))
  expect(refusal({ os: 'windows', architecture: 'amd64' })?.code).toBe('ISB_PLATFORM_UNSUPPORTED')
  expect(refusal({ os: 'linux', architecture: 'wasm' })?.code).toBe('ISB_PLATFORM_UNSUPPORTED')
  rmSync(directory, { recursive: true })
  expect(refusal(arm64)?.code).toBe('ISB_PLATFORM_UNSUPPORTED')
})

test('a handler without a mask compares every byte', () => {
  expect(parseHandler('enabled\ninterpreter /x\nflags: \noffset 4\nmagic 0201\n')).toEqual({
    ...{ interpreter: '/x', flags: '', offset: 4, mask: undefined },
    magic: Buffer.from([2, 1]),
  })
  expect(parseHandler('')).toBeUndefined()
})
