import type { ContainerConfig } from '@isula-build/shared/oci/image-config.js'
import { expect, test } from 'vitest'
import { type ConfigChange, mutateConfig, withEnv } from './mutate.js'

const base: ContainerConfig = {
  Env: ['A=1', 'B=2'],
  Cmd: ['c'],
  Labels: { a: '1' },
  ExposedPorts: { '80/tcp': {} },
  Volumes: { '/v': {} },
  OnBuild: ['RUN x'],
}

const changes: readonly ConfigChange[] = [
  { kind: 'env', pairs: [['A', '3']] },
  { kind: 'label', pairs: [['b', '2']] },
  { kind: 'user', user: 'u' },
  { kind: 'workdir', path: '/w' },
  { kind: 'entrypoint', args: ['e'], resetsCmd: true },
  { kind: 'cmd', args: ['d'] },
  { kind: 'expose', ports: ['81/tcp'] },
  { kind: 'volume', paths: ['/w'] },
  { kind: 'stopsignal', signal: 'INT' },
  { kind: 'shell', shell: ['/sh'] },
  { kind: 'healthcheck', healthcheck: { Test: ['NONE'] } },
  { kind: 'onbuild', expressions: ['RUN y'] },
  { kind: 'onbuild-done' },
]

test.each(changes)('$kind gives a new config and leaves the old one alone', (change) => {
  const before = structuredClone(base)
  const after = mutateConfig(base, change)
  expect(base).toEqual(before)
  expect(after).not.toEqual(base)
})

test('a known variable keeps its place, a new one goes to the end, the last value wins', () => {
  expect(
    withEnv(base.Env ?? [], [
      ['C', '1'],
      ['A', ''],
      ['C', '2'],
    ]),
  ).toEqual(['A=', 'B=2', 'C=2'])
})

test('an entry without = counts as its name', () => {
  expect(withEnv(['A'], [['A', '1']])).toEqual(['A=1'])
})

test('ENTRYPOINT keeps CMD unless it resets it', () => {
  expect(mutateConfig(base, { kind: 'entrypoint', args: ['e'], resetsCmd: false }).Cmd).toEqual(['c'])
  expect(mutateConfig(base, { kind: 'entrypoint', args: ['e'], resetsCmd: true })).not.toHaveProperty('Cmd')
})

test('a label called __proto__ is a label', () => {
  const { Labels } = mutateConfig({}, { kind: 'label', pairs: [['__proto__', 'x']] })
  expect(Object.entries(Labels ?? {})).toEqual([['__proto__', 'x']])
})
