import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { planOutputs } from './outputs.js'

let root: string

beforeAll(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'client-outputs-')))
  writeFileSync(join(root, 'isula'), '#!/bin/sh\n')
  chmodSync(join(root, 'isula'), 0o755)
  writeFileSync(join(root, 'docker.sock'), '')
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

const plan = (texts: readonly string[], tags: readonly string[] = []) =>
  planOutputs(texts, { tags, environment: { PATH: root, DOCKER_HOST: `unix://${root}/docker.sock` } })

function failure(texts: readonly string[], tags: readonly string[] = []): string {
  try {
    plan(texts, tags)
  } catch (error) {
    if (isBuilderError(error)) return error.message
    throw error
  }
  return 'planned'
}

const stream = { case: 'stream', value: {} }

test('the daemon writes files and pushes, this client takes what needs the rights of its user', () => {
  const planned = plan([
    `docker-archive:${root}/a.tar:a:1`,
    'docker-daemon:b:1',
    'isulad:c:1',
    'docker://r.io/d:1',
    `${root}/files`,
    `oci-dir:${root}/layout:e`,
    `type=tar,dest=${root}/files.tar`,
  ])
  expect(planned.messages.map(({ type, destination, name }) => [type, destination?.case, name])).toEqual([
    ['docker-archive', 'file', 'a:1'],
    ['docker-archive', 'stream', 'b:1'],
    ['docker-archive', 'stream', 'c:1'],
    ['registry', 'reference', ''],
    ['rootfs', 'stream', ''],
    ['oci-archive', 'stream', 'e:latest'],
    ['rootfs', 'file', ''],
  ])
  expect([...planned.sinks.keys()]).toEqual([1, 2, 4, 5])
  expect(planned).toMatchObject({ tags: [], usesStdout: false })
  // Nothing is made before there is something to put in.
  expect(readdirSync(root).sort()).toEqual(['docker.sock', 'isula'])
})

test('standard output is for one', () => {
  expect(plan(['docker-archive:-'])).toMatchObject({ usesStdout: true, messages: [{ destination: stream }] })
  expect(failure(['docker-archive:-', '-'])).toBe('error runBuild: only one output can go to standard output')
})

test('two outputs do not meet', () => {
  expect(failure([`docker-archive:${root}/a`, `oci-archive:${root}/a`])).toBe(
    `error runBuild: two outputs go to the same file "${root}/a"`,
  )
  expect(failure([`${root}/d`, `oci-dir:${root}/d`])).toContain('two outputs go to the same file')
  expect(failure(['docker://r.io/a:1', 'oci://r.io/a:1'])).toContain('the same reference "r.io/a:1"')
})

test('outputs without a name take those of the build', () => {
  const tags = ['r.io/a:1', 'b']
  expect(plan(['type=docker'], tags).messages).toMatchObject([{ type: 'docker-archive', name: 'r.io/a:1' }])
  expect(plan(['type=registry'], tags).messages.map(({ destination }) => destination?.value)).toEqual(tags)
  expect(failure(['type=docker'])).toBe('error runBuild: output type=docker has no name')
  expect(failure(['type=registry'])).toBe('error runBuild: output type=registry has no name')
})

test('further names become tags', () => {
  expect(plan(['type=image,"name=a,b:2"', 'type=docker,"name=c,d"']).tags).toEqual([
    'a:latest',
    'b:2',
    'd:latest',
  ])
})

test('push options travel', () => {
  const [message] = plan(['type=registry,name=r.io/a,compression=gzip,compression-level=9']).messages
  expect(message?.push).toEqual({ format: '', compression: 'gzip', level: 9 })
})

test('what could not be handed over is told before the build', () => {
  const nowhere = { tags: [], environment: { PATH: '/nonexistent', DOCKER_HOST: 'unix:///nonexistent' } }
  expect(() => planOutputs(['isulad:a:1'], nowhere)).toThrow(
    'error runBuild: the program isula is not installed',
  )
  expect(() => planOutputs(['docker-daemon:a:1'], nowhere)).toThrow('dockerd at /nonexistent is not running')
  mkdirSync(join(root, 'full/in'), { recursive: true })
  expect(failure([`oci-dir:${root}/full`])).toBe(
    `error runBuild: output directory "${root}/full" exists and is not empty`,
  )
  expect(existsSync(join(root, 'full/in'))).toBe(true)
})
