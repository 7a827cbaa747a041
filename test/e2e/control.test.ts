import { spawnSync } from 'node:child_process'
import { constants, createPublicKey, publicEncrypt } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import {
  createControlBench,
  entriesOf,
  failedPrecondition,
  invalidArgument,
  meet,
  member,
  newId,
  notFound,
  ok,
  unavailable,
  unimplemented,
  user,
} from '../support/control-bench.js'
import type { RunningCall } from '../support/control-client.js'
import { number, numberIn, partsIn, text, textIn } from '../support/proto-bytes.js'

// Builds through `isula.build.v1.Control`, as a client of the original asks for them.

const bench = await createControlBench()
const { work, daemon, client, baseTar, request, build, built, lines, list, asUser } = bench

afterAll(() => bench.stop())

describe('a client of the original', () => {
  test('is told that the daemon serves', async () => {
    expect((await client.unary('HealthCheck').ended).messages).toEqual([Buffer.from([8, 1])])
  })

  test('gets the version', async () => {
    const [reply = Buffer.alloc(0)] = (await client.unary('Version').ended).messages
    expect(textIn(reply, 1)).toMatch(/^\d+\.\d+\.\d+/)
    expect(textIn(reply, 2)).toBe(`node ${process.version}`)
    expect(textIn(reply, 3)).not.toBe('')
    expect(textIn(reply, 4)).toMatch(/^[A-Z][a-z]{2} [A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d 20\d\d$/)
    expect(textIn(reply, 5)).toMatch(/^linux\/[a-z0-9]+$/)
  })

  test('gets facts of the daemon, those of its memory only when asked', async () => {
    const [short = Buffer.alloc(0)] = (await client.unary('Info').ended).messages
    const [memory = Buffer.alloc(0)] = partsIn(short, 1)
    expect(numberIn(memory, 1)).toBeGreaterThan(numberIn(memory, 2))
    expect(partsIn(short, 2).map((storage) => [textIn(storage, 1), textIn(storage, 2)])).toEqual([
      ['overlay', expect.stringMatching(/./)],
    ])
    expect(partsIn(short, 3)).toHaveLength(1)
    expect([textIn(short, 4), textIn(short, 5), textIn(short, 6)]).toEqual([daemon.data, daemon.run, 'runc'])
    expect([numberIn(short, 7), partsIn(short, 9)]).toEqual([0, []])
    expect(numberIn(short, 8)).toBeGreaterThan(0)
    const [long = Buffer.alloc(0)] = (await client.unary('Info', number(1, true)).ended).messages
    const [heap = Buffer.alloc(0)] = partsIn(long, 9)
    for (const field of [1, 2, 3, 4]) expect(numberIn(heap, field)).toBeGreaterThan(1 << 20)
  })

  test('imports a root file system with and without a name', async () => {
    const log = await lines('Import', Buffer.concat([text(1, newId()), text(2, baseTar)]))
    const [, id] = log.match(/Import success with image id: "([0-9a-f]{64})"\n$/) ?? []
    const rows = await list(id)
    expect(rows.map(({ repository, tag }) => `${repository}:${tag}`)).toContain('base:1')
    const named = await lines('Import', Buffer.concat([text(2, baseTar), text(3, 'imported/twice')]))
    expect(named).toMatch(/Import success/)
    expect((await list('imported/twice'))[0]).toMatchObject({ repository: 'imported/twice', tag: 'latest' })
  })
})

describe('a build', () => {
  test('is the reply of Build and the text of Status', async () => {
    const content =
      'ARG V=1\nFROM base:1 AS one\nRUN echo out; echo error >&2\nFROM one\nCOPY file /f\nCMD ["/bin/sh"]\n'
    const { id, log } = await built({ content, tag: 'shape' })
    expect(id).toMatch(/^[0-9a-f]{64}$/)
    const shown = log.split('\n')
    expect(shown.filter((line) => line.startsWith('STEP'))).toEqual([
      'STEP  1: FROM base:1 AS one',
      'STEP  2: RUN echo out; echo error >&2',
      'STEP  3: FROM one',
      'STEP  4: COPY file /f',
      'STEP  5: CMD ["/bin/sh"]',
    ])
    const run = shown.indexOf('STEP  2: RUN echo out; echo error >&2')
    expect(shown.slice(run + 1, run + 3).sort()).toEqual(['error', 'out'])
    expect(log).toMatch(/\nCommitted stage 0 with ID: [0-9a-f]{64}\n/)
    expect(log.endsWith(`Build success with image id: ${id}\n`)).toBe(true)
    expect(await list('shape')).toEqual([
      {
        ...{ repository: 'shape', tag: 'latest', id },
        created: expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/),
        size: expect.stringMatching(/^[\d.]{1,4} MB$/),
      },
    ])
  })

  test.each([
    ['after', ['Build', 'Status']],
    ['before', ['Status', 'Build']],
  ])('whose Status comes %s its Build loses nothing', async (_when, order) => {
    const id = newId()
    const bytes = request({ content: `FROM base:1\nRUN echo ${id}\n` }, id)
    const start = {
      Build: () => client.unary('Build', bytes),
      Status: () => client.stream('Status', text(1, id)),
    }
    const calls: RunningCall[] = []
    for (const name of order) {
      calls.push(start[name as keyof typeof start]())
      await sleep(400)
    }
    const [first, second] = calls
    if (first === undefined || second === undefined) throw new Error('two calls')
    const { code, log } = await (order[0] === 'Build' ? meet(first, second) : meet(second, first))
    expect(code).toBe(ok)
    expect(log.startsWith(`STEP  1: FROM base:1\nSTEP  2: RUN echo ${id}\n${id}\n`)).toBe(true)
  })

  test('that nobody watches does not begin', async () => {
    const call = client.unary('Build', request({ content: 'FROM base:1\nRUN sleep 9\n' }, newId()))
    await sleep(300)
    expect(numberIn((await client.unary('Info').ended).messages[0] ?? Buffer.alloc(0), 7)).toBe(0)
    call.cancel()
    expect((await call.ended).code).toBe(1)
  })

  test('takes arguments, and names those nothing used, sorted', async () => {
    const content = 'FROM base:1\nARG V=none\nRUN echo "V is $V"\n'
    const { log } = await built({ content, args: ['V=a=b', 'zeta=1', 'alpha=2', 'bare'] })
    expect(log).toContain('\nV is a=b\n')
    expect(log).toContain('\n[Warning] One or more build-args [alpha zeta] were not consumed\n')
  })

  test('opens arguments that were closed with the key of the daemon', async () => {
    const pem = readFileSync(join(daemon.directory, 'etc/isula-build.pub'), 'utf8')
    const [, body = ''] =
      pem.match(/^-----BEGIN RSA PUBLIC KEY-----\n([\s\S]+)-----END RSA PUBLIC KEY-----\n$/) ?? []
    const key = createPublicKey({ key: Buffer.from(body, 'base64'), format: 'der', type: 'spki' })
    const close = (value: string): string =>
      publicEncrypt(
        { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha512' },
        Buffer.from(value),
      ).toString('hex')
    const path = join(work, 'proxied.tar')
    const secret = 'http://me:word@proxy.invalid:1'
    const { log } = await built({
      content: 'FROM base:1\nRUN echo "$https_proxy"\n',
      args: [close(`https_proxy=${secret}`)],
      encrypted: true,
      output: `docker-archive:${path}`,
    })
    expect(log).toContain(`\n${secret}\n`)
    expect(spawnSync('grep', ['-c', 'me:word', path], { encoding: 'utf8' }).stdout.trim()).toBe('0')
    expect(readFileSync(daemon.log, 'utf8')).not.toContain('me:word')
    const wrong = await build({ content: 'FROM base:1\n', args: ['A=plain'], encrypted: true })
    expect(wrong).toMatchObject({ code: invalidArgument, details: 'an encrypted field is not hexadecimal' })
  })

  test('inherits the proxy of the daemon only when it asks for it', async () => {
    const shown = async (proxy: boolean): Promise<string> =>
      (await built({ content: `FROM base:1\nRUN echo "${proxy}=<$http_proxy>"\n`, proxy })).log
    expect(await shown(true)).toContain('\ntrue=<http://proxy.invalid:3128>\n')
    expect(await shown(false)).toContain('\nfalse=<>\n')
  })

  test('with a fixed time gives the same image again, and dates it so', async () => {
    const time = Date.UTC(2020, 4, 23, 10, 55, 33) / 1000
    const content = 'FROM base:1\nRUN echo fixed > /fixed\nCOPY file /f\n'
    const other = join(work, 'other-context')
    mkdirSync(other)
    writeFileSync(join(other, 'file'), 'from the context\n')
    const { id } = await built({ content, time, tag: 'static:1' })
    expect((await list('static:1'))[0]?.created).toBe('2020-05-23 10:55:33')
    await lines('Remove', text(1, ['static:1']))
    const archive = join(work, 'static.tar')
    const again = await built({ content, time, context: other, output: `docker-archive:${archive}` })
    expect(again.id).toBe(id)
    const config = member(archive, `${id}.json`) as { created: string }
    expect(config.created).toBe('2020-05-23T10:55:33Z')
  })

  test('with a fixed time leaves that time to no build after it', async () => {
    const content = 'FROM base:1\nENV DATED=1\n'
    const fixed = await built({ content, time: 86_400, tag: 'dated:1' })
    expect((await list('dated:1'))[0]?.created).toBe('1970-01-02 00:00:00')
    const later = await built({ content, tag: 'dated:2' })
    expect(later.id).not.toBe(fixed.id)
    expect((await list('dated:2'))[0]?.created).not.toMatch(/^1970/)
    expect((await built({ content })).id).toBe(later.id)
  })

  test('with a fixed time is refused while the same is under way', async () => {
    const content = 'FROM base:1\nRUN sleep 2\n'
    const id = newId()
    const first = build({ content, time: 1_600_000_000, id })
    await sleep(700)
    const second = await build({ content, time: 1_600_000_000 })
    expect(second.details).toBe(
      `the dockerfile is already on building with static build mode by buildID: ${id}`,
    )
    expect(await first).toMatchObject({ code: ok })
  })

  test('grants capabilities, and only those that exist', async () => {
    const content = 'FROM base:1\nRUN grep CapEff /proc/self/status\n'
    const effective = async (caps: readonly string[]): Promise<bigint> => {
      const { log } = await built({ content, caps })
      return BigInt(`0x${log.match(/CapEff:\s*([0-9a-f]+)/)?.[1] ?? 'none'}`)
    }
    const sysAdmin = 1n << 21n
    expect((await effective([])) & sysAdmin).toBe(0n)
    expect((await effective(['CAP_SYS_ADMIN'])) & sysAdmin).toBe(sysAdmin)
    for (const cap of ['FOO', 'CAP_FOO', 'sys_admin']) {
      expect(await build({ content, caps: [cap] })).toMatchObject({
        code: invalidArgument,
        details: `cap ${cap} is invalid`,
      })
    }
  })

  test('writes an archive of each kind to a path, and takes its name and the tag', async () => {
    const content = 'FROM base:1\nCOPY file /exported\n'
    const docker = join(work, 'out-docker.tar')
    const { id } = await built({ content, output: `docker-archive:${docker}:made/docker:v1`, tag: 'extra:2' })
    expect(entriesOf(docker)).toEqual([
      { Config: `${id}.json`, RepoTags: ['made/docker:v1'], Layers: [expect.anything(), expect.anything()] },
    ])
    const names = (await list(id)).map(({ repository, tag }) => `${repository}:${tag}`).sort()
    expect(names).toEqual(['extra:2', 'made/docker:v1'])
    const oci = join(work, 'out-oci.tar')
    const second = await built({ content, format: 'oci', output: `oci-archive:${oci}:made/oci:v1` })
    const index = member(oci, 'index.json') as { manifests: { digest: string; annotations: object }[] }
    expect(index.manifests).toHaveLength(1)
    const digest = index.manifests[0]?.digest.replace(':', '/') ?? ''
    const manifest = member(oci, `blobs/${digest}`) as { mediaType: string; config: { digest: string } }
    expect(manifest.mediaType).toBe('application/vnd.oci.image.manifest.v1+json')
    expect(manifest.config.digest).toBe(`sha256:${second.id}`)
    const taken = await build({ content, output: `docker-archive:${docker}` })
    expect(taken.details).toContain('output file already exist')
  })

  test("of another user writes files that are that user's", async () => {
    const output = join(work, 'users/image.tar')
    const iidfile = join(work, 'users/iid')
    const id = newId()
    const bytes = request({ content: 'FROM base:1\n', iidfile, output: `docker-archive:${output}` }, id)
    const [end, status] = await asUser([
      { kind: 'unary', method: 'Build', request: bytes.toString('hex') },
      { kind: 'stream', method: 'Status', request: text(1, id).toString('hex') },
    ])
    expect(end).toMatchObject({ code: ok, details: '' })
    const imageId = textIn(Buffer.from(end?.messages[0] ?? '', 'hex'), 1)
    expect(readFileSync(iidfile, 'utf8').trim()).toBe(imageId)
    for (const path of [iidfile, output]) expect(statSync(path)).toMatchObject(user)
    const log = status?.messages.map((message) => textIn(Buffer.from(message, 'hex'), 1)).join('')
    expect(log).toContain(`Write image ID [${imageId}] to file: ${iidfile}\n`)
    expect(log).not.toContain('Build success')
  })

  test('of another user does not write where that user may not', async () => {
    const iidfile = join(work, 'roots-iid')
    const id = newId()
    const bytes = request({ content: 'FROM base:1\n', iidfile }, id)
    const [end] = await asUser([
      { kind: 'unary', method: 'Build', request: bytes.toString('hex') },
      { kind: 'stream', method: 'Status', request: text(1, id).toString('hex') },
    ])
    expect(end?.code).toBe(7)
    expect(existsSync(iidfile)).toBe(false)
  })

  test('that fails says why, and its Status ends well', async () => {
    const failed = await build({ content: 'FROM base:1\nRUN echo before; exit 3\n', args: ['unused=1'] })
    expect(failed.code).toBe(failedPrecondition)
    expect(failed.details).toMatch(/exit(ed with)? (code|status)? ?3/)
    expect(failed.log).toContain('\nbefore\n')
    expect(failed.log).toContain('[Warning] One or more build-args [unused] were not consumed\n')
    expect(failed.status).toMatchObject({ code: ok, details: '' })
    for (const content of ['FORM base:1\n', '', 'FROM no/such/image:1\n', 'FROM base:1\nCOPY missing /\n']) {
      const { code, details } = await build({ content })
      expect([invalidArgument, notFound, unimplemented], details).toContain(code)
      expect(details).not.toBe('')
    }
    // It is not here, and the registry that it would be at does not answer.
    const absent = await build({ content: 'FROM localhost/no/such/image:1\n' })
    expect([absent.code, absent.details]).toEqual([
      unavailable,
      expect.stringContaining('registry localhost'),
    ])
  })

  test('ends with its client', async () => {
    const id = newId()
    const call = client.unary('Build', request({ content: 'FROM base:1\nRUN echo on; sleep 600\n' }, id))
    const status = client.stream('Status', text(1, id))
    while (!status.messages.some((message) => textIn(message, 1).includes('on\n'))) await sleep(20)
    call.cancel()
    status.cancel()
    const began = Date.now()
    const running = async (): Promise<number> =>
      numberIn((await client.unary('Info').ended).messages[0] ?? Buffer.alloc(0), 7)
    while ((await running()) > 0 && Date.now() - began < 10_000) await sleep(50)
    expect(await running()).toBe(0)
  })
})
