import { describe, expect, test } from 'vitest'
import type { RunSpec } from '../ports/runtime.js'
import { capabilitiesOfMask, capabilityMask, defaultCapabilities, parseCapabilities } from './capabilities.js'
import { launchRequest } from './launch-request.js'
import { seccompProfile } from './seccomp-profile.js'
import { type HostFacts, ociConfig } from './spec.js'

const spec: RunSpec = {
  id: 'r1',
  lowers: ['l/A'],
  upper: '/data/staging/1/upper',
  work: '/data/staging/1/work',
  args: ['/bin/sh', '-c', 'true'],
  env: ['PATH=/bin'],
  cwd: '/',
  user: { uid: 0, gid: 0, additionalGids: [] },
  mounts: [],
  network: 'host',
  addCapabilities: [],
  insecure: false,
  isolation: 'oci',
  hostname: undefined,
  platform: { os: 'linux', architecture: 'amd64' },
  spool: '/run/spool',
}
const host: HostFacts = {
  architecture: 'x64',
  capabilities: capabilitiesOfMask(0x1ff_ffff_ffffn),
  openFilesLimit: 1_000_000,
  oomScoreAdj: 0,
  thermalPaths: ['/sys/devices/system/cpu/cpu0/thermal_throttle'],
  limitsProcesses: true,
  cgroupNamespace: false,
}
const place = { rootfs: '/run/r/rootfs', cgroupsPath: '/isula-build/x/r1' }
const config = (change: Partial<RunSpec> = {}, facts: Partial<HostFacts> = {}) =>
  ociConfig({ ...spec, ...change }, { ...host, ...facts }, place)

describe('the configuration of a RUN', () => {
  test('gives root 14 capabilities and nothing to inherit', () => {
    const { bounding, effective, permitted, inheritable, ambient } = config().process.capabilities
    expect(bounding).toHaveLength(14)
    expect(capabilityMask(bounding)).toBe(0xa80425fbn)
    expect([effective, permitted, inheritable, ambient]).toEqual([bounding, bounding, [], []])
  })

  test('gives other users an empty set within the same bounds', () => {
    const { bounding, effective, permitted } = config({
      user: { uid: 1, gid: 1, additionalGids: [2] },
    }).process.capabilities
    expect([bounding.length, effective, permitted]).toEqual([14, [], []])
  })

  test('gives nobody more than the daemon has', () => {
    const own = capabilitiesOfMask(capabilityMask(['CAP_CHOWN', 'CAP_KILL']))
    expect(config({ insecure: true }, { capabilities: own }).process.capabilities.bounding).toEqual(own)
  })

  test('shares the network of the host unless there is none', () => {
    const types = (change: Partial<RunSpec>): readonly string[] =>
      config(change).linux.namespaces.map(({ type }) => type)
    expect(types({})).toEqual(['mount', 'pid', 'ipc', 'uts'])
    expect(types({ network: 'none' })).toEqual(['mount', 'pid', 'ipc', 'uts', 'network'])
  })

  test('masks what moby and isula-build mask, and the thermal counters of this machine', () => {
    const { maskedPaths } = config().linux
    for (const path of [
      '/proc/kcore',
      '/proc/interrupts',
      '/proc/kbox',
      '/sys/firmware',
      ...host.thermalPaths,
    ]) {
      expect(maskedPaths).toContain(path)
    }
  })

  test('an insecure RUN has no filter, no masks and a writable /sys', () => {
    const { linux, mounts } = config({ insecure: true })
    expect([linux.seccomp, linux.maskedPaths, linux.readonlyPaths]).toEqual([undefined, [], []])
    expect(mounts.find(({ destination }) => destination === '/sys')?.options).toContain('rw')
  })

  test('limits stay within those of the daemon', () => {
    expect(config().process.rlimits[0]).toEqual({ type: 'RLIMIT_NOFILE', soft: 1024, hard: 524_288 })
    const [files] = config({}, { openFilesLimit: 512 }).process.rlimits
    expect(files).toEqual({ type: 'RLIMIT_NOFILE', soft: 512, hard: 512 })
  })

  test('a daemon that is spared by the OOM killer does not spare its RUNs', () => {
    expect(config({}, { oomScoreAdj: -500 }).process.oomScoreAdj).toBe(0)
    expect(config({}, { oomScoreAdj: 100 }).process.oomScoreAdj).toBeUndefined()
  })

  test('without cgroups there are no limits to ask for', () => {
    const { linux } = ociConfig(spec, host, { ...place, cgroupsPath: undefined })
    expect([linux.cgroupsPath, linux.resources]).toEqual([undefined, undefined])
  })
})

describe('the filter of system calls', () => {
  const rule = (name: string, capabilities = defaultCapabilities) =>
    seccompProfile('x64', capabilities).syscalls.filter(({ names }) => names.includes(name))

  test('refuses unknown calls as missing and known ones as forbidden', () => {
    expect(seccompProfile('x64', defaultCapabilities).defaultErrnoRet).toBe(38)
    for (const name of ['mount', 'keyctl', 'io_uring_setup', 'bpf', 'kexec_load', 'setns', 'userfaultfd']) {
      expect(rule(name)).toEqual([expect.objectContaining({ action: 'SCMP_ACT_ERRNO', errnoRet: 1 })])
    }
    expect(rule('clone3')).toEqual([expect.objectContaining({ action: 'SCMP_ACT_ERRNO', errnoRet: 38 })])
  })

  test('opens what an added capability is for, and only that', () => {
    expect(rule('bpf', [...defaultCapabilities, 'CAP_BPF'])).toEqual([
      expect.objectContaining({ action: 'SCMP_ACT_ALLOW' }),
    ])
    expect(rule('mount', [...defaultCapabilities, 'CAP_BPF'])).toEqual([
      expect.objectContaining({ action: 'SCMP_ACT_ERRNO' }),
    ])
    const admin = rule('clone', [...defaultCapabilities, 'CAP_SYS_ADMIN'])
    expect(admin).toEqual([expect.not.objectContaining({ args: expect.anything() })])
  })

  test('names no call in two contradicting rules', () => {
    for (const architecture of ['x64', 'arm64', 's390x', 'riscv64', 'ppc64', 'loong64', 'unknown']) {
      const plain = seccompProfile(architecture, defaultCapabilities).syscalls.filter(({ args }) => !args)
      const names = plain.flatMap((one) => one.names)
      expect(names.length).toBe(new Set(names).size)
    }
  })
})

describe('a request to the launcher', () => {
  const request = (change: Partial<RunSpec>) =>
    launchRequest({ ...spec, ...change }, host, { ...place, runtimePath: '/usr/bin/runc' })

  test('drops variables without a value, which no runtime accepts', () => {
    const { process } = request({ env: ['A=1', 'B', '=x'] })
    expect(process.kind === 'oci' && process.config.process.env).toEqual(['A=1'])
  })

  test.each([
    [{ args: [] }, 'ISB_ARGUMENT_INVALID'],
    [{ args: ['a\0b'] }, 'ISB_ARGUMENT_INVALID'],
    [{ env: ['A=\0'] }, 'ISB_ARGUMENT_INVALID'],
    [{ hostname: 'a b' }, 'ISB_ARGUMENT_INVALID'],
    [{ addCapabilities: ['CAP_NOPE'] }, 'ISB_ARGUMENT_INVALID'],
    [{ lowers: Array.from({ length: 128 }, (_, n) => `l/${n}`) }, 'ISB_LIMIT_EXCEEDED'],
  ])('refuses %j', (change: Partial<RunSpec>, code) => {
    expect(() => request(change)).toThrow(expect.objectContaining({ code }))
  })

  test('never lets an identifier choose a path', () => {
    for (const id of ['..', '../x', 'a/b', '', '-x', 'a\0']) expect(() => request({ id })).toThrow()
  })

  test('needs a runtime for isolation oci only', () => {
    const none = { ...place, runtimePath: undefined }
    expect(() => launchRequest(spec, host, none)).toThrow(
      expect.objectContaining({ code: 'ISB_RUNTIME_MISSING' }),
    )
    expect(launchRequest({ ...spec, isolation: 'chroot' }, host, none).process.kind).toBe('chroot')
  })
})

test('capabilities are read with and without prefix, in any case', () => {
  expect(parseCapabilities(['net_admin', 'CAP_BPF', 'Cap_Bpf'])).toEqual(['CAP_NET_ADMIN', 'CAP_BPF'])
  expect(parseCapabilities(['all'])).toHaveLength(41)
})
