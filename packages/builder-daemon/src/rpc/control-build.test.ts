import type { Encodable } from '@isula-build/shared/rpc/codec.js'
import { type BuildRequest, controlService } from '@isula-build/shared/rpc/control.js'
import { describe, expect, test } from 'vitest'
import { storedImages as images, useRpcClient } from '../../../../test/support/rpc-bench.js'
import { failure, pause } from './test-client.js'

const imageId = 'a'.repeat(64)
const bench = useRpcClient(images)

function request(
  fileContent: string,
  more: Encodable<typeof BuildRequest> = {},
): Encodable<typeof BuildRequest> {
  return {
    buildID: 'abc',
    buildType: 'ctr-img',
    contextDir: '/ctx',
    fileContent,
    proxy: true,
    format: 'docker',
    ...more,
  }
}

async function statusText(buildID = 'abc'): Promise<string> {
  let text = ''
  for await (const { content } of bench.client.stream(controlService.Status, { buildID })) text += content
  return text
}

describe('Build and Status', () => {
  test('tell the build in the words of the original', async () => {
    const text = statusText()
    const { imageID } = await bench.client.unary(controlService.Build, request('SAY hello\nWARN take care'))
    expect(imageID).toBe(imageId)
    expect(await text).toBe(
      [
        'STEP  1: SAY hello',
        'helloSTEP  2: WARN take care',
        '[Warning] take care',
        `Committed stage 0 with ID: ${imageId}`,
        `Build success with image id: ${imageId}`,
        '',
      ].join('\n'),
    )
  })

  test('meet whichever comes first, and nothing is built before both are there', async () => {
    const built = bench.client.unary(controlService.Build, request('SAY hello'))
    await pause(150)
    expect(bench.core.started).toHaveLength(0)
    const text = await statusText()
    expect((await built).imageID).toBe(imageId)
    expect(text).toContain('hello')
  })

  test('end the text with the iidfile when there is one', async () => {
    const text = statusText()
    await bench.client.unary(controlService.Build, request('SAY x', { iidfile: '/tmp/iid' }))
    expect((await text).trimEnd().split('\n').at(-1)).toBe(`Write image ID [${imageId}] to file: /tmp/iid`)
    expect(await text).not.toContain('Build success')
    expect(bench.core.started[0]?.options.iidFile).toBe('/tmp/iid')
  })

  test('show everything a failing build said, then its error', async () => {
    const text = statusText()
    const error = await failure(bench.client.unary(controlService.Build, request('SAY hello\nFAIL it broke')))
    expect(error).toMatchObject({ code: 'ISB_STEP_FAILED', message: 'it broke' })
    expect(await text).toBe('STEP  1: SAY hello\nhelloSTEP  2: FAIL it broke\n')
  })

  test('end together when the build is refused', async () => {
    const text = statusText()
    expect((await failure(bench.client.unary(controlService.Build, request('REFUSE')))).code).toBe(
      'ISB_TOO_MANY_BUILDS',
    )
    expect(await text).toBe('')
  })

  test('mark bytes of the output that are no text', async () => {
    const text = statusText()
    await bench.client.unary(controlService.Build, request('SAY \u00c3\u00a9\u00ff.'))
    expect(await text).toContain('\né\ufffd.Committed')
  })

  test('take the options as the original means them', async () => {
    const text = statusText()
    await bench.client.unary(
      controlService.Build,
      request('SAY x', {
        output: 'docker-archive:/out.tar:busybox',
        buildArgs: ['A=b=c', 'bare', '__proto__=x'],
        additionalTag: 'name:tag',
        capAddList: ['CAP_NET_RAW'],
        buildStatic: { buildTime: { seconds: 1_590_231_333, nanos: 5 } },
        format: 'oci',
        proxy: false,
      }),
    )
    await text
    const options = bench.core.started[0]?.options
    expect(options).toMatchObject({
      id: 'abc',
      context: { kind: 'directory', path: '/ctx', expected: undefined },
      outputs: [
        { kind: 'docker-archive', name: 'busybox:latest', target: { kind: 'file', path: '/out.tar' } },
      ],
      tags: ['name:tag'],
      capAdd: ['CAP_NET_RAW'],
      fixedTime: 1_590_231_333,
      format: 'oci',
      proxy: false,
    })
    expect(Object.entries(options?.buildArgs ?? {})).toEqual([
      ['A', 'b=c'],
      ['__proto__', 'x'],
    ])
  })

  test.each([
    [
      'docker://h:5000/r:1',
      {
        kind: 'registry',
        reference: 'h:5000/r:1',
        push: { format: 'docker', compression: undefined, level: undefined },
        name: 'h:5000/r:1',
      },
    ],
    ['oci://h/r', { kind: 'registry', reference: 'h/r', push: { format: 'oci' }, name: 'h/r:latest' }],
    ['docker-daemon:a:1', { kind: 'docker-daemon', name: 'a:1' }],
    ['isulad:a:1', { kind: 'isulad', name: 'a:1' }],
  ])('take the output %s', async (output, expected) => {
    const text = statusText()
    await bench.client.unary(controlService.Build, request('SAY x', { output }))
    await text
    expect(bench.core.started[0]?.options.outputs).toMatchObject([expected])
  })

  test('open encrypted build args', async () => {
    const text = statusText()
    const buildArgs = [Buffer.from('http_proxy=http://u:p@h').toString('hex')]
    await bench.client.unary(controlService.Build, request('SAY x', { buildArgs, encrypted: true }))
    await text
    expect(bench.core.started[0]?.options.buildArgs).toEqual({ http_proxy: 'http://u:p@h' })
  })

  test.each([
    ['another build type', { buildType: 'vm' }, 'the build type "vm" is not supported'],
    ['a relative context', { contextDir: 'ctx' }, 'path of the context is not absolute'],
    ['an ID that is a path', { buildID: '../x' }, 'build ID'],
    ['an empty ID', { buildID: '' }, 'build ID'],
    ['a malformed capability', { capAddList: ['FOO'] }, 'cap FOO is invalid'],
    ['an unknown format', { format: 'zip' }, 'image format "zip"'],
    ['an unknown output', { output: 'foo:/x' }, 'transport "foo" not support'],
    ['an output without a tag', { output: 'docker-daemon:a' }, 'has no tag'],
    ['a malformed output', { output: 'isulad:a' }, 'invalid isulad output format: isulad:a'],
    ['an output that takes our client', { output: 'type=local,dest=/x' }, 'not support'],
    ['a directory as output', { output: '/x' }, 'transport "/x" not support'],
    ['an output to a relative path', { output: 'oci-archive:x' }, 'not absolute'],
    ['a time out of range', { buildStatic: { buildTime: { seconds: 1, nanos: -1 } } }, 'out of range'],
    ['a relative iidfile', { iidfile: 'x' }, 'iidfile'],
  ])('refuse %s without waiting for a watcher', async (_, change, message) => {
    const error = await failure(bench.client.unary(controlService.Build, request('SAY x', change)))
    expect(error.code).toBe('ISB_ARGUMENT_INVALID')
    expect(error.message).toContain(message)
    expect(bench.core.started).toHaveLength(0)
  })

  test('take another build of the same ID once the first is over', async () => {
    for (const word of ['first', 'second']) {
      const text = statusText()
      expect((await bench.client.unary(controlService.Build, request(`SAY ${word}`))).imageID).toBe(imageId)
      expect(await text).toContain(`STEP  1: SAY ${word}\n${word}`)
    }
  })

  test('forget a watcher that leaves before its build', async () => {
    const gone = bench.client.stream(controlService.Status, { buildID: 'abc' })
    const waiting = gone.next().catch((reason: unknown) => reason)
    await pause(50)
    bench.client.close()
    await waiting
    await pause(50)
    bench.reconnect()
    const built = bench.client.unary(controlService.Build, request('SAY x'))
    await pause(100)
    expect(bench.core.started).toHaveLength(0)
    await statusText()
    expect((await built).imageID).toBe(imageId)
  })

  test('refuse a second build while the first still waits for its watcher', async () => {
    const first = bench.client.unary(controlService.Build, request('SAY a'))
    await pause(50)
    expect((await failure(bench.client.unary(controlService.Build, request('SAY b')))).code).toBe(
      'ISB_BUILD_EXISTS',
    )
    expect(await statusText()).toContain('SAY a')
    expect((await first).imageID).toBe(imageId)
  })
})
