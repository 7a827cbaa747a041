import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  detectCgroups,
  joinsExpected,
  ownCgroup,
  parseCgroupMounts,
  removeCgroupParents,
  unneededHierarchies,
} from './cgroups.js'

const line = (place: string, type: string, options: string): string =>
  `30 24 0:26 / ${place} rw,relatime shared:9 - ${type} ${type} ${options}`

test('a machine with legacy hierarchies', () => {
  expect(
    parseCgroupMounts(
      [
        line('/sys/fs/cgroup/pids', 'cgroup', 'rw,pids'),
        line('/sys/fs/cgroup/cpu,cpuacct', 'cgroup', 'rw,cpu,cpuacct'),
        line('/proc', 'proc', 'rw'),
      ].join('\n'),
    ),
  ).toEqual({
    mode: 'v1',
    hierarchies: [
      { path: '/sys/fs/cgroup/pids', controllers: ['pids'] },
      { path: '/sys/fs/cgroup/cpu,cpuacct', controllers: ['cpu', 'cpuacct'] },
    ],
  })
})

test('a machine with the unified hierarchy, and one with both', () => {
  const unified = line('/sys/fs/cgroup', 'cgroup2', 'rw,nsdelegate')
  expect(parseCgroupMounts(unified).mode).toBe('v2')
  expect(parseCgroupMounts(`${unified}\n${line('/sys/fs/cgroup/pids', 'cgroup', 'rw,pids')}`).mode).toBe(
    'hybrid',
  )
})

test('of legacy hierarchies, those that neither count processes nor refuse devices are not needed', () => {
  const mounts = ['pids', 'devices', 'cpu,cpuacct', 'memory', 'name=systemd', 'net_cls,devices']
    .map((options) => line(`/sys/fs/cgroup/${options}`, 'cgroup', `rw,${options}`))
    .concat(line('/sys/fs/cgroup/unified', 'cgroup2', 'rw'))
  expect(unneededHierarchies(parseCgroupMounts(mounts.join('\n')))).toEqual([
    '/sys/fs/cgroup/cpu,cpuacct',
    '/sys/fs/cgroup/memory',
    '/sys/fs/cgroup/name=systemd',
  ])
  expect(unneededHierarchies(parseCgroupMounts(line('/sys/fs/cgroup', 'cgroup2', 'rw')))).toEqual([])
})

test('no cgroups, an empty file and lines that are none', () => {
  for (const text of ['', '\n\n', 'garbage', '1 2 - cgroup', ' - ', line('/x', 'tmpfs', 'rw')]) {
    expect(['none', 'v1']).toContain(parseCgroupMounts(text).mode)
  }
  expect(parseCgroupMounts(line('/a\\040b', 'cgroup2', 'rw')).hierarchies[0]?.path).toBe('/a b')
})

test.skipIf(process.getuid?.() !== 0)(
  'a daemon keeps the directory it shares with others in every hierarchy',
  () => {
    const shared = `isula-build-test-${process.pid}`
    const cgroups = detectCgroups(`${shared}/one`)
    try {
      // Another daemon that ends leaves what is above its own to the first.
      removeCgroupParents(detectCgroups(`${shared}/other`), `${shared}/other`)
      const places = cgroups.hierarchies.map(({ path }) => join(path, shared, 'one'))
      expect(places.filter((place) => !existsSync(place))).toEqual([])
    } finally {
      removeCgroupParents(cgroups, `${shared}/one`)
    }
    expect(cgroups.hierarchies.filter(({ path }) => existsSync(join(path, shared)))).toEqual([])
  },
)

test('the own cgroup in a hierarchy', () => {
  const text = '9:name=systemd:/a\n4:cpu,cpuacct:/b:c\n3:pids:/\n0::/user.slice\n'
  expect(ownCgroup(text, { controllers: ['pids'] })).toBe('/')
  expect(ownCgroup(text, { controllers: ['cpuacct', 'cpu'] })).toBe('/b:c')
  expect(ownCgroup(text, { controllers: [] })).toBe('/user.slice')
  expect(ownCgroup(text, { controllers: ['cpu'] })).toBeUndefined()
  expect(ownCgroup('', { controllers: [] })).toBeUndefined()
})

test('who expects somebody to join a cgroup stays in his own', async () => {
  const found = parseCgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  const before = readFileSync('/proc/self/cgroup', 'utf8')
  const expectJoin = joinsExpected({ ...found, limitsProcesses: false })
  for (const _ of [1, 2]) await expectJoin()
  expect(readFileSync('/proc/self/cgroup', 'utf8')).toBe(before)
  await joinsExpected({ mode: 'none', hierarchies: [], limitsProcesses: false })()
})
