import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type RawEntry, rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { createHostileBench, filesHolding, type HostileBench } from '../support/hostile-bench.js'

/** Dockerfiles and images that attack the front end (S14 to S20, S24 to S27). */

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('a hostile Dockerfile', () => {
  let hostile: HostileBench

  beforeAll(async () => {
    hostile = await createHostileBench()
  })
  afterEach(() => hostile.expectUnharmed())
  afterAll(() => hostile[Symbol.asyncDispose]())

  const build = (dockerfile: string | Buffer, files: Readonly<Record<string, string | Buffer>> = {}) =>
    hostile.buildOf(dockerfile, files)

  describe('is refused at the line that is wrong (S14)', () => {
    const line = (n: number) => new RegExp(`--> Dockerfile:${n}:`)
    const cases: readonly (readonly [string, string | Buffer, RegExp])[] = [
      ['nothing', '', /no|empty/i],
      ['only comments', '# a\n\n# b\n', /./],
      ['only ARG', 'ARG A=1\n', /./],
      ['an instruction before FROM', 'RUN true\nFROM scratch\n', line(1)],
      ['FROM of nothing', 'FROM\n', line(1)],
      ['FROM that expands to nothing', 'FROM ${0:+0}\n', line(1)],
      ['FROM of a variable that is not set', 'FROM ${NOPE}\n', line(1)],
      ['a negative stage', 'FROM scratch\nCOPY --from=-1 / /\n', line(2)],
      ['a stage that is not there', 'FROM scratch\nCOPY --from=99 / /\n', line(2)],
      ['a stage that copies from itself', 'FROM scratch AS a\nCOPY --from=a / /\n', line(2)],
      ['a mount of the own stage', 'FROM base:1 AS a\nRUN --mount=from=a,target=/m true\n', line(2)],
      ['bytes that are no UTF-8', Buffer.from('FROM scratch\nCOPY \xa0\n', 'latin1'), line(2)],
      ['COPY of nothing', 'FROM scratch\nCOPY\n', line(2)],
      ['COPY to nowhere', 'FROM scratch\nCOPY a\n', line(2)],
      ['a carriage return as the only line end', 'FROM scratch\rCOPY Dockerfile /\r', /./],
      ['NUL', 'FROM scratch\nLABEL a=\0\n', line(2)],
      ['UTF-16', Buffer.from('\ufeffFROM scratch\n', 'utf16le'), /UTF-8|NUL/],
      ['a here-document without end', 'FROM base:1\nRUN <<EOF\ntrue\n', /heredoc|here-document|EOF/i],
      ['an unknown instruction', 'FROM scratch\nSTEAL /etc/shadow\n', line(2)],
      ['an unknown flag', 'FROM scratch\nCOPY --root=/ a b\n', line(2)],
      ['an endless variable', 'FROM scratch\nENV A=${A:-${A:-${A\n', line(2)],
      ['a JSON of another kind', 'FROM base:1\nSHELL {"a":1}\n', line(2)],
      ['a port that is none', 'FROM scratch\nEXPOSE 99999999999999999999\n', line(2)],
      ['ports without end', `FROM scratch\nEXPOSE ${'0-65535 '.repeat(100_000)}\n`, line(2)],
      ['instructions without end', `FROM scratch\n${'COPY a /\n'.repeat(100_000)}`, line(25_001)],
      ['sources without end', `FROM scratch\nCOPY ${'a '.repeat(50_000)} /d/\n`, line(2)],
      ['labels without end', `FROM scratch\nLABEL ${'a= '.repeat(100_000)}\n`, line(2)],
      [
        'mounts without end',
        `FROM base:1\nRUN ${Array.from({ length: 3000 }, (_, i) => `--mount=type=tmpfs,target=/m${i} `).join('')}true\n`,
        line(2),
      ],
      [
        'images without end at a registry that is not there',
        `FROM scratch\n${Array.from({ length: 4990 }, (_, i) => `COPY --from=localhost:1/x${i} /a /a\n`).join('')}`,
        line(2),
      ],
      ['a signal that is none', 'FROM scratch\nSTOPSIGNAL SIGNOPE\n', line(2)],
      ['an ONBUILD of ONBUILD', 'FROM scratch\nONBUILD ONBUILD RUN true\n', line(2)],
      ['a stage name that is a path', 'FROM scratch AS ../../x\n', line(1)],
      ['a platform that is none', 'FROM --platform=../../x scratch\n', line(1)],
      ['more than 1 MiB', `FROM scratch\nLABEL a=${'x'.repeat(1 << 20)}\n`, /1 MiB/],
    ]
    test.each(cases)('%s', async (_what, dockerfile, message) => {
      await hostile.refused({ message }, ...build(dockerfile))
    })

    test('while odd but sound ones build', async () => {
      for (const dockerfile of [
        '\ufeffFROM scratch\r\nCOPY Dockerfile /\r\n',
        `FROM scratch\nLABEL a=${'x'.repeat(1_000_000)}\n`,
        `FROM base:1\nRUN true ${'\\\n'.repeat(100_000)}\n`,
        `FROM base:1\nRUN true${' '.repeat(900_000)}\n`,
        `FROM scratch\n${'LABEL a=1\n'.repeat(2000)}COPY Dockerfile /\n`,
        `FROM scratch\nENV ${Array.from({ length: 4000 }, (_, i) => `A${i}=${i}`).join(' ')}\nCOPY Dockerfile /$A3999\n`,
      ]) {
        await hostile.accepted(...build(dockerfile))
      }
    })

    test('a file named thousands of times, and a directory as deep as a path leads, build soon', async () => {
      await hostile.accepted(...build(`FROM scratch\nCOPY ${'a '.repeat(5000)} /d/\n`, { a: 'a' }))
      const [command = '', action = '', context = ''] = build('FROM scratch\nCOPY . /\n')
      mkdirSync(join(context, Array.from({ length: 1900 }, () => 'd').join('/')), { recursive: true })
      await hostile.accepted(command, action, context)
      execFileSync('rm', ['-rf', join(context, 'd')])
    })

    test('an image of more layers than can be mounted, unless they are merged', async () => {
      const copies = Array.from({ length: 128 }, (_, i) => `COPY <<END /f${i}\n${i}\nEND\n`)
      const longest = `FROM scratch\n${copies.slice(1).join('')}`
      await hostile.accepted(...build(longest))
      const longer = `FROM scratch\n${copies.join('')}`
      await hostile.refused(
        { message: /would have 128 layers, at most 127 can be mounted/ },
        ...build(longer),
      )
      await hostile.accepted(...build(longer), '--layers=stage')
    })

    test('deep nesting and chains of stages end soon', async () => {
      const nested = `${'${A:-'.repeat(20_000)}x${'}'.repeat(20_000)}`
      await hostile.client(...build(`FROM scratch\nENV A=${nested}\nCOPY Dockerfile /\n`))
      const chain = Array.from(
        { length: 500 },
        (_, i) => `FROM ${i === 0 ? 'base:1' : `s${i - 1}`} AS s${i}\n`,
      )
      await hostile.accepted(...build(`${chain.join('')}COPY Dockerfile /\n`))
      const doubling = Array.from({ length: 60 }, (_, i) => `ENV A${i + 1}=$A${i}$A${i}\n`).join('')
      await hostile.refused({}, ...build(`FROM scratch\nENV A0=xxxxxxxxxx\n${doubling}COPY Dockerfile /\n`))
    })
  })

  describe('mounts', () => {
    test('of a directory that is a link to / show the image (S15, CVE-2024-1753)', async () => {
      const { canary } = hostile
      const dockerfile = `FROM base:1 AS evil
RUN ln -s / /rootdir; ln -s ${canary} /canary
FROM base:1
RUN --mount=type=bind,from=evil,source=/rootdir,target=/m,rw ls /m/bin/busybox && mkdir -p /m${canary} && echo pwned > /m${canary}/victim
RUN --mount=type=bind,from=evil,source=/canary,target=/m,rw echo pwned > /m/victim; true
`
      await hostile.client(...build(dockerfile))
    })

    test('of caches never leave the caches, and two IDs are two caches (S16, CVE-2024-9675)', async () => {
      const { climbing, canary } = hostile
      const ids = ['../x', '/etc', 'a/../../b', climbing, canary, '%2e%2e', 'i'.repeat(4000), 'é', '..', '.']
      const write = ids.map(
        (id, i) => `RUN --mount=type=cache,id=${id},target=/c ls -A /c; echo ${i} > /c/mark\n`,
      )
      await hostile.accepted(...build(`FROM base:1\n${write.join('')}`))
      const read = ids.map(
        (id, i) => `RUN --mount=type=cache,id=${id},target=/c [ "$(cat /c/mark)" = ${i} ]\n`,
      )
      await hostile.accepted(...build(`FROM base:1\n${read.join('')}`))
      for (const source of [climbing, '../..', canary]) {
        const dockerfile = `FROM base:1\nRUN --mount=type=cache,id=s,source=${source},target=/c cat /c/secret; ls /c/victim && exit 9; true\n`
        expect((await hostile.client(...build(dockerfile))).status).not.toBe(9)
      }
    })

    test('have no options but the known ones (S17, CVE-2024-9407)', async () => {
      for (const option of [
        'bind-propagation=suid',
        'bind-propagation=rshared',
        'suid',
        'dev',
        'relabel=shared',
      ]) {
        const dockerfile = `FROM base:1\nRUN --mount=type=bind,target=/m,${option} true\n`
        const error = await hostile.refused({ message: /mount|unexpected key/i }, ...build(dockerfile))
        expect(error).toContain('--> Dockerfile:2:')
      }
    })
  })

  test('users are looked up in regular files of the image only, at once (S18, CVE-2024-9676)', async () => {
    const { canary, climbing } = hostile
    const files: readonly RawEntry[] = [
      { type: '2', pax: { linkpath: `${canary}/secret` } },
      { type: '2', pax: { linkpath: `${climbing}/secret` } },
      { type: '2', link: '/dev/zero' },
      { type: '2', link: 'passwd' },
      { type: '2', link: '/proc/self/environ' },
      { type: '6' },
      { type: '5', mode: 0o755 },
      { type: '3', device: [1, 5] },
      {
        content: 'abc',
        pax: {
          ...{ 'GNU.sparse.major': '0', 'GNU.sparse.minor': '1' },
          ...{ 'GNU.sparse.size': String(1 << 30), 'GNU.sparse.map': '0,3' },
        },
      },
    ]
    for (const file of files) {
      const image = await hostile.imported({ ...file, name: 'etc/passwd' })
      const before = hostile.peakMemory()
      const began = performance.now()
      const asUser = `FROM ${image}\nUSER app\nRUN true\n`
      const message = /user|passwd/
      expect(await hostile.refused({ message }, ...build(asUser))).toContain('--> Dockerfile:')
      const asOwner = `FROM ${image}\nCOPY --chown=app Dockerfile /\n`
      expect(await hostile.refused({ message }, ...build(asOwner))).toContain('--> Dockerfile:2:')
      expect(performance.now() - began).toBeLessThan(5000)
      expect(hostile.peakMemory() - before).toBeLessThan(50 << 20)
    }
  })

  test('links of the image are followed inside the image (S19, CVE-2018-15664)', async () => {
    const { canary, climbing } = hostile
    const dockerfile = `FROM base:1 AS links
RUN ln -s ${canary} /link; ln -s ${climbing} /up; mkdir /d; ln -s ${canary}/secret /d/s; mkdir -p ${canary}; echo inside > ${canary}/own
FROM links
COPY Dockerfile /link/f
COPY Dockerfile /up/g
ADD Dockerfile /link/hollow/h
WORKDIR /link/work
RUN [ -f ${canary}/f ] && [ -f ${canary}/g ] && [ -f ${canary}/hollow/h ] && [ -d ${canary}/work ]
COPY --from=links /link /out
COPY --from=links /l*k/own /globbed/
RUN [ "$(ls /out)" = own ]
RUN case "$(cat /globbed/own 2>/dev/null)" in ''|inside) ;; *) exit 9;; esac
`
    await hostile.accepted(...build(dockerfile))
    // The secret is there on the host only.
    const stolen = `FROM base:1 AS links\nRUN mkdir /d; ln -s ${canary}/secret /d/s\nFROM links\nCOPY --from=links /d/s /s\n`
    await hostile.refused({ message: /not found/ }, ...build(stolen))
  })

  test('archives are unpacked by programs of the host, never of the image (S20, CVE-2026-41567)', async () => {
    const trojan = `#!/bin/sh\necho pwned > ${hostile.canary}/pwned; touch /pwned; exec /bin/busybox cat\n`
    const names = ['gzip', 'xz', 'bzip2', 'zstd', 'tar', 'git', 'unpigz', 'sh']
    const image = await hostile.imported(
      ...['bin', 'usr/bin', 'usr/local/bin'].flatMap((directory) =>
        names
          .filter((name) => `${directory}/${name}` !== 'bin/sh')
          .map((name): RawEntry => ({ name: `${directory}/${name}`, content: trojan, mode: 0o755 })),
      ),
    )
    const tar = rawTar({ name: 'unpacked', content: 'x' })
    const packed = Object.fromEntries(
      ['gzip', 'xz', 'bzip2', 'zstd'].map((name) => [
        `${name}.tar`,
        execFileSync(name, ['-c'], { input: tar }),
      ]),
    )
    const steps = Object.keys(packed).map((name) => `ADD ${name} /${name}/\nRUN [ -f /${name}/unpacked ]\n`)
    await hostile.accepted(...build(`FROM ${image}\n${steps.join('')}RUN [ ! -e /pwned ]\n`, packed))
  })

  test('images that differ in their configuration alone do not share steps (S25, CVE-2024-24557)', async () => {
    for (const value of ['one', 'two']) {
      await hostile.accepted(...build(`FROM base:1\nENV VALUE=${value}\n`), '-t', `env-${value}:1`)
    }
    for (const value of ['one', 'two']) {
      const dockerfile = `FROM env-${value}:1\nRUN echo $VALUE > /value\nRUN echo it-is-$(cat /value)\n`
      expect(await hostile.accepted(...build(dockerfile))).toContain(`it-is-${value}\n`)
    }
  })

  test('what an ignore file excludes is not to be had, however it is asked for (S26)', async () => {
    const { secret } = hostile
    const files = {
      hidden: secret,
      '.dockerignore': 'hidden\n*.key\n!public.key\n',
      'a.key': secret,
      'public.key': 'p',
    }
    for (const source of ['hidden', './hidden', '/hidden', '../hidden', 'x/../hidden', 'a.key']) {
      await hostile.refused({ message: /hidden|a\.key/ }, ...build(`FROM scratch\nCOPY ${source} /\n`, files))
    }
    // A pattern may match nothing, as for BuildKit.
    await hostile.accepted(...build('FROM scratch\nCOPY h*n /\n', files))
    const bound = 'RUN --mount=type=bind,target=/m ls -A /m; cat /m/hidden /m/a.key; cat /m/public.key\n'
    await hostile.accepted(...build(`FROM base:1\nCOPY . /all/\nADD . /added/\n${bound}`, files))
    expect(filesHolding(hostile.bench.daemon.directory, secret)).toEqual([])
  })

  describe('downloads (S24, S27)', () => {
    const token = 'T0KEN-of-a-user'
    let server: Server
    let origin: string
    let authorizations: (string | undefined)[] = []

    beforeAll(async () => {
      server = createServer((request, response) => {
        authorizations.push(request.headers.authorization)
        const path = request.url ?? ''
        const redirect = (location: string) => response.writeHead(302, { location }).end()
        if (path === '/file') response.end('content')
        else if (path === '/loop') redirect('/loop')
        else if (path === '/to-file') redirect(`file://${hostile.canary}/secret`)
        else if (path === '/to-unix') redirect(`unix://${hostile.bench.daemon.socket}`)
        else if (path === '/elsewhere')
          redirect(`http://localhost:${(server.address() as AddressInfo).port}/file`)
        else if (path === '/to-nonsense') redirect('http://[::')
        else if (path === '/headers') response.writeHead(200, { long: 'x'.repeat(64 * 1024) }).end()
        else if (path === '/huge')
          response.writeHead(200, { 'content-length': String(2 ** 50) }).flushHeaders()
        else if (path === '/short')
          response.writeHead(200, { 'content-length': '100' }).end('x', () => request.socket.destroy())
        else if (path.startsWith('/name/')) response.end('content')
        else if (path === '/nonsense') request.socket.end('this is no HTTP\r\n\r\n')
        else response.writeHead(404).end('x'.repeat(1 << 20))
      })
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    })
    afterAll(() => {
      server.closeAllConnections()
      server.close()
    })

    test.each([
      ['/loop', /redirects more than 10 times/],
      ['/to-file', /redirects to file:, only http and https/],
      ['/to-unix', /redirects to unix:/],
      ['/to-nonsense', /redirect/],
      ['/headers', /cannot fetch/],
      ['/huge', /larger than/],
      ['/short', /cannot fetch/],
      ['/nonsense', /cannot fetch/],
      ['/missing', /answered 404/],
    ])('of %s fail clearly', async (path, message) => {
      const error = await hostile.refused({ message }, ...build(`FROM scratch\nADD ${origin}${path} /\n`))
      expect(error).toContain('--> Dockerfile:2:')
    })

    test.each(['file', 'ftp', 'unix', 'gopher', 'data'])('by %s: are none', async (scheme) => {
      await hostile.refused({}, ...build(`FROM scratch\nADD ${scheme}://${hostile.canary}/secret /\n`))
    })

    test('get no name that leads elsewhere', async () => {
      const names = [
        'a%2f..%2f..%2fx',
        '%2e%2e%2fy',
        '..%2f..%2f..%2fz',
        '%00x',
        '..%5cw',
        '%2fabs',
        '..%2f..',
        '%2e',
      ]
      const steps = names.map((name) => `ADD ${origin}/name/${name} /d/\n`).join('')
      await hostile.accepted(...build(`FROM base:1\n${steps}`), '-t', 'names:1')
      const look = 'FROM base:1\nRUN --mount=from=names:1,target=/m cd /m; ls; ls -A d\n'
      const words = (await hostile.accepted(...build(look))).split(/\s+/)
      for (const name of ['x', 'y', 'z', 'abs', '__unnamed__', '..\\w']) expect(words).toContain(name)
      expect(words.slice(words.indexOf('bin'), words.indexOf('tmp') + 1)).toEqual([
        'bin',
        'd',
        'etc',
        'root',
        'tmp',
      ])
    })

    test('show their passwords to their own origin only', async () => {
      authorizations = []
      const { daemon } = hostile.bench
      const withUser = (path: string) => `${origin.replace('//', `//user:${token}@`)}${path}`
      await hostile.accepted(...build(`FROM scratch\nADD ${withUser('/file')} /f\n`), '-t', 'token:1')
      await hostile.accepted(...build(`FROM scratch\nADD ${withUser('/elsewhere')} /f\n`))
      const refused = await hostile.refused({}, ...build(`FROM scratch\nADD ${withUser('/missing')} /f\n`))
      expect(refused).not.toContain(token)
      expect(authorizations.filter((value) => value !== undefined)).toHaveLength(3)
      expect(authorizations[2]).toBe(undefined)
      expect(filesHolding(daemon.directory, token)).toEqual([])
    })

    test('and passwords of proxies are nowhere in the image, the database or the log', async () => {
      const { daemon } = hostile.bench
      const proxy = `http://user:${token}@127.0.0.1:9/`
      const dockerfile = 'FROM base:1\nRUN [ -n "$http_proxy" ]\nCOPY Dockerfile /\n'
      const end = await hostile.bench.client([
        ...build(dockerfile),
        '--build-arg',
        `http_proxy=${proxy}`,
        '-t',
        'proxy:1',
      ]).ended
      expect(end.stderr).toBe('')
      expect(end.status).toBe(0)
      expect(end.stdout).not.toContain(token)
      expect(filesHolding(daemon.directory, token)).toEqual([])
    })
  })
})
