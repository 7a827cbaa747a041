import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench, readDockerArchive, tool } from '../support/client-bench.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

const id = /^[0-9a-f]{64}$/
const dockerfile = (text: string) => ({ input: text })

/** The configuration of an image, through an archive. */
function configOf(image: string) {
  const path = join(bench.work, 'config.tar')
  rmSync(path, { force: true })
  bench.ok(['save', image, '-o', path])
  return readDockerArchive(path).config()
}

test('the log has the shape of the original', () => {
  const context = bench.context({
    Dockerfile:
      'ARG W\nFROM base:1 AS one\nARG V\nRUN echo "v=$V"; printf unfinished\nFROM base:1\nCOPY --from=one /etc/group /g\n',
  })
  const { status, stdout, stderr } = bench.run(
    ['build', '-t', 'shape', '--build-arg', 'V=1', '--build-arg', 'Z=1', '--build-arg', 'Y=1', '.'],
    { cwd: context },
  )
  expect([status, stderr]).toEqual([0, ''])
  const lines = stdout.split('\n')
  const [imageId = ''] = bench.ok(['images', '-q', 'shape']).split('\n')
  expect(lines[0]).toBe('STEP  1: FROM base:1 AS one')
  expect(lines).toContain('STEP  3: RUN echo "v=$V"; printf unfinished')
  expect(lines.slice(lines.indexOf('v=1'), lines.indexOf('v=1') + 2)).toEqual(['v=1', 'unfinished'])
  expect(stdout.indexOf('v=1')).toBeLessThan(stdout.indexOf('STEP  4'))
  expect(lines.slice(-4)).toEqual([
    '[Warning] One or more build-args [Y Z] were not consumed',
    `Committed stage 1 with ID: ${imageId}`,
    `Build success with image id: ${imageId}`,
    '',
  ])
})

describe('a failed RUN', () => {
  const failing = dockerfile('FROM base:1\nRUN echo before; exit 7\n')

  test('shows its output once, then the cause with its place, and gives its own exit code', () => {
    const { status, stdout, stderr } = bench.run(['build', '-f', '-', '.'], failing)
    expect(status).toBe(7)
    expect(stdout).toBe('STEP  1: FROM base:1\nSTEP  2: RUN echo before; exit 7\nbefore\n')
    expect(stderr.split('\n')[0]).toBe(
      "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7",
    )
    expect(stderr).toContain('--> Dockerfile:2:1')
    expect(stderr).not.toContain('last output')
    expect(stderr).not.toContain('rpc error')
  })

  test('shows the end of its output with -q, and nothing on standard output', () => {
    const { status, stdout, stderr } = bench.run(['build', '-q', '-f', '-', '.'], failing)
    expect([status, stdout]).toEqual([7, ''])
    expect(stderr).toContain('  last output:\n  | before\n')
  })

  test.each([
    ['exit 1', 1],
    ['exit 255', 255],
    ["sh -c 'kill -9 $$'; exit $?", 137],
    ['/nonexistent', 127],
  ])('%s gives %i', (command, code) => {
    expect(bench.run(['build', '-f', '-', '.'], dockerfile(`FROM base:1\nRUN ${command}\n`)).status).toBe(
      code,
    )
  })
})

test('errors of a Dockerfile show where they are', () => {
  const { status, stderr } = bench.run(['build', '-f', '-', '.'], dockerfile('FROM base:1\nRUNN true\n'))
  expect(status).toBe(1)
  expect(stderr).toContain('Dockerfile:2:1')
  expect(stderr).toContain('RUNN')
})

test('-q prints the ID alone; --iidfile holds it', () => {
  const context = bench.context({ Dockerfile: 'FROM base:1\nENV A=1\n' })
  const quiet = bench.run(['build', '-q', context])
  expect([quiet.status, quiet.stderr]).toEqual([0, ''])
  expect(quiet.stdout.trim()).toMatch(id)
  const file = join(bench.work, 'iid')
  const stdout = bench.ok(['build', '--iidfile', file, context])
  expect(readFileSync(file, 'utf8')).toMatch(id)
  expect(stdout.split('\n').at(-2)).toBe(`Write image ID [${readFileSync(file, 'utf8')}] to file: ${file}`)
  expect(stdout).not.toContain('Build success')
  const nowhere = bench.run(['build', '--iidfile', '/nonexistent/iid', context])
  expect([nowhere.status, nowhere.stdout]).toEqual([1, ''])
  expect(nowhere.stderr).toContain('cannot write the image ID: access /nonexistent/iid: no such file')
})

test('-t several times, --label, --env, --build-arg from the environment and --target', () => {
  const context = bench.context({
    Dockerfile:
      'FROM base:1 AS web\nARG FROM_ENV\nARG GIVEN=x\nENV GOT=$FROM_ENV-$GIVEN OWN=1\nFROM base:1\nRUN exit 3\n',
  })
  bench.ok(
    [
      ...['build', '-t', 'multi:1', '-tmulti:2', '--tag=other', '--target', 'web', '--label', 'a=b=c'],
      ...['--label', 'bare', '--env', 'E=1', '--env', 'PASSED', '--build-arg', 'FROM_ENV'],
      ...['--build-arg=GIVEN=a=b', '--build-arg', 'ABSENT', context],
    ],
    { env: { FROM_ENV: 'here', PASSED: 'yes' } },
  )
  const images = bench.ok(['images'])
  for (const row of [/^ multi +1 /m, /^ multi +2 /m, /^ other +latest /m]) expect(images).toMatch(row)
  const { config } = configOf('multi:1')
  expect(config['Labels']).toMatchObject({ a: 'b=c', bare: '' })
  expect(config['Env']).toEqual(expect.arrayContaining(['GOT=here-a=b', 'OWN=1', 'E=1', 'PASSED=yes']))
})

describe('outputs', () => {
  let context: string
  beforeEach(() => {
    context = bench.context({ Dockerfile: 'FROM base:1\nCOPY f /f\n', f: 'content' })
  })

  test('several go to their files, and their names become names of the image', () => {
    const [docker, oci] = [join(context, 'd.tar'), join(context, 'o.tar')]
    const stdout = bench.ok(
      ['build', '-o', 'docker-archive:d.tar:out:1', '-o', `oci-archive:${oci}:out:2`, '-t', 'out:3', '.'],
      { cwd: context },
    )
    expect(stdout).toMatch(/^Build success with image id: /m)
    expect(readDockerArchive(docker).manifest[0]?.RepoTags).toEqual(['out:1'])
    expect(JSON.parse(tool('tar', ['-xOf', oci, 'index.json'])).manifests).toHaveLength(1)
    const rows = bench
      .ok(['images', 'out'])
      .split('\n')
      .filter((line) => line.startsWith(' out'))
    expect(rows.map((row) => row.split(/ +/)[2]).sort()).toEqual(['1', '2', '3'])
  })

  test('one goes to standard output, with the log on standard error', () => {
    const path = join(context, 'stdout.tar')
    const fresh = bench.run(['build', '--no-cache', '-o', 'docker-archive:-', context], {
      encoding: 'latin1',
    })
    expect(fresh.status).toBe(0)
    expect(fresh.stderr).toContain('STEP  2: COPY f /f')
    writeFileSync(path, fresh.stdout, 'latin1')
    expect(readDockerArchive(path).manifest).toHaveLength(1)
    const quiet = bench.run(['build', '-q', '-o', 'oci-archive:-', context], { encoding: 'latin1' })
    expect(quiet.stderr).toBe('')
    writeFileSync(path, quiet.stdout, 'latin1')
    expect(tool('tar', ['-tf', path])).toContain('oci-layout')
  })

  test('a broken build leaves no file', () => {
    const file = join(context, 'none.tar')
    const given = dockerfile('FROM base:1\nRUN exit 1\n')
    expect(bench.run(['build', '-f', '-', '-o', `docker-archive:${file}`, '.'], given).status).toBe(1)
    expect(existsSync(file)).toBe(false)
  })

  test.each([
    ['foo:x', 'error runBuild: transport "foo" not support'],
    ['type=foo', 'error runBuild: output type "foo" not support'],
    [':x', 'error runBuild: transport should not be empty'],
    ['docker-archive:', 'error runBuild: destination should not be empty'],
    ['docker-archive:f', 'error runBuild: output file already exist: '],
    [`docker-archive:${'x'.repeat(500)}`, 'error runBuild: output should not longer than 512'],
    ['docker-archive:/nonexistent/x', 'error runBuild: stat /nonexistent: no such file or directory'],
    ['isulad:a', 'error runBuild: invalid isulad output format: isulad:a'],
    ['docker-daemon:a', 'error runBuild: output "docker-daemon:a" has no tag'],
    ['type=registry', 'error runBuild: output type=registry has no name'],
    ['docker-archive:new:BAD:1', 'error runBuild: '],
  ])('%s is refused before anything is built', (output, message) => {
    const { status, stdout, stderr } = bench.run(['build', '-o', output, '.'], { cwd: context })
    expect([status, stdout]).toEqual([1, ''])
    expect(stderr.slice(0, message.length)).toBe(message)
  })

  test('two cannot go to the same place', () => {
    const twice = (place: string) =>
      bench.run(['build', '-o', `docker-archive:${place}`, '-o', `oci-archive:${place}`, context]).stderr
    expect(twice('-')).toContain('only one output can go to standard output')
    expect(twice('same.tar')).toContain('two outputs go to the same file')
  })

  test('the type of --format decides about the stored image', () => {
    for (const [args, env] of [
      [['--format', 'oci'], {}],
      [[], { ISULABUILD_CLI_EXPERIMENTAL: 'enabled' }],
    ] as const) {
      expect(bench.run(['build', ...args, '-t', 'typed', context], { env }).status).toBe(0)
    }
    const { status, stderr } = bench.run(['build', '--format', 'tar', context])
    expect(status).toBe(1)
    expect(stderr).toContain('"tar"')
  })
})

describe('contexts', () => {
  test('the current directory by default, and a Dockerfile in lower case', () => {
    const context = bench.context({ dockerfile: 'FROM base:1\nRUN echo lower\n' })
    expect(bench.ok(['build'], { cwd: context })).toContain('lower\n')
  })

  test('a Dockerfile outside, with its own ignore file', () => {
    const context = bench.context({ 'in/a': '1', 'in/b': '2', D: 'FROM base:1\nCOPY . /c\nRUN ls /c\n' })
    writeFileSync(join(context, 'D.dockerignore'), 'a\n')
    writeFileSync(join(context, 'in/.dockerignore'), 'b\n.dockerignore\n')
    expect(bench.ok(['build', '-f', join(context, 'D'), join(context, 'in')])).toContain(
      '\n.dockerignore\nb\n'.slice(15),
    )
    rmSync(join(context, 'D.dockerignore'))
    expect(bench.ok(['build', '--no-cache', '-f', join(context, 'D'), join(context, 'in')])).toMatch(
      /ls \/c\na\nComm/,
    )
  })

  test.each(['plain', 'gzip'])('a %s tar on standard input', (kind) => {
    const context = bench.context({
      Dockerfile: 'FROM base:1\nCOPY . /c\nRUN find /c -type f | sort; cat /c/dir/f\n',
      'sub/Other': 'FROM base:1\nRUN echo other\n',
      'dir/f': 'streamed\n',
      'dir/left.log': '',
      '.dockerignore': '**/*.log\nDockerfile\n.dockerignore\n',
    })
    const tar = Buffer.from(tool('tar', ['-C', context, '-c', '.'], { encoding: 'latin1' }), 'latin1')
    const input = kind === 'gzip' ? gzipSync(tar) : tar
    expect(bench.ok(['build', '--no-cache', '-'], { input })).toContain(
      'sort; cat /c/dir/f\n/c/dir/f\n/c/sub/Other\nstreamed\n',
    )
    expect(bench.ok(['build', '--no-cache', '-f', 'sub/Other', '-'], { input })).toContain('\nother\n')
    const missing = bench.run(['build', '-f', 'nope', '-'], { input })
    expect([missing.status, missing.stderr.trim()]).toEqual([
      1,
      'error runBuild: the tar on standard input holds no nope',
    ])
  })

  test('a Dockerfile alone on standard input', () => {
    expect(bench.ok(['build', '-'], dockerfile('FROM base:1\nRUN echo alone\n'))).toContain('\nalone\n')
    const { status, stderr } = bench.run(['build', '-'], dockerfile('FROM base:1\nCOPY f /f\n'))
    expect(status).toBe(1)
    expect(stderr).toContain('Dockerfile:2')
    expect(bench.run(['build', '-'], dockerfile('')).stderr).toContain('standard input is empty')
    expect(bench.run(['build', '-f', '-', '-'], dockerfile('')).stderr).toContain('cannot be both')
  })

  test('named ones: a directory and an image', () => {
    const extra = bench.context({ f: 'extra\n', skipped: '', '.dockerignore': 'skipped\n.dockerignore\n' })
    const text = 'FROM second\nCOPY --from=more . /m\nRUN ls /m; cat /m/f /mark\n'
    bench.ok(['build', '-t', 'marked', '-f', '-', '.'], dockerfile('FROM base:1\nRUN echo mark > /mark\n'))
    const args = ['--build-context', `more=${extra}`, '--build-context=second=docker-image://marked']
    expect(bench.ok(['build', '-f', '-', ...args, '.'], dockerfile(text))).toContain(
      '/mark\nf\nextra\nmark\n',
    )
    for (const [value, message] of [
      ['more', 'expected NAME=VALUE'],
      ['=x', 'expected NAME=VALUE'],
      ['more=/nonexistent', 'no such file or directory'],
      ['more=https://example.com/x', 'is no directory'],
    ] as const) {
      const { status, stderr } = bench.run(['build', '--build-context', value, '.'])
      expect([status, stderr]).toEqual([1, expect.stringContaining(message)])
    }
  })

  test('what is no context or no Dockerfile is told as the original tells it', () => {
    const file = join(bench.work, 'plain-file')
    writeFileSync(file, 'x')
    const context = bench.context({ keep: '' })
    const message = (...args: readonly string[]) => bench.run(['build', ...args]).stderr.trim()
    expect(message(file)).toBe(`error runBuild: context directory path "${file}" should be a directory`)
    expect(message('-f', '/x', context)).toBe(
      `error runBuild: check dockerfile /x failed: stat /x: no such file or directory, ` +
        `check dockerfile ${context}/x failed again: stat ${context}/x: no such file or directory`,
    )
  })
})

describe('secrets', () => {
  const given = dockerfile(
    'FROM base:1\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B cat /run/secrets/a; echo "$B"\n',
  )

  test('come from a file and from the environment, and are not in the image', () => {
    const path = join(bench.work, 'secret-file')
    writeFileSync(path, 'from-a-file\n')
    const args = ['--secret', `id=a,src=${path}`, '--secret', 'id=b,env=TOKEN', '-t', 'secretive']
    const stdout = bench.ok(['build', '-f', '-', ...args, '.'], { ...given, env: { TOKEN: 'from-env' } })
    expect(stdout).toContain('\nfrom-a-file\nfrom-env\n')
    const archive = bench.run(['save', 'secretive', '-o', '-'], { encoding: 'latin1' }).stdout
    expect(archive.length).toBeGreaterThan(10_000)
    expect(archive).not.toContain('from-a-file')
    expect(archive).not.toContain('from-env')
  })

  test('that are missing are told', () => {
    const { status, stderr } = bench.run(
      ['build', '--secret', 'id=a,src=/nonexistent', '-f', '-', '.'],
      given,
    )
    expect([status, stderr.trim()]).toEqual([
      1,
      'error runBuild: secret a: stat /nonexistent: no such file or directory',
    ])
  })
})

describe('how RUN runs', () => {
  test('--cap-add adds a capability', () => {
    const bits = (...args: readonly string[]): bigint => {
      const given = dockerfile('FROM base:1\nRUN grep CapEff /proc/self/status\n')
      const stdout = bench.ok(['build', '--no-cache', '-f', '-', ...args, '.'], given)
      return BigInt(`0x${/CapEff:\s+([0-9a-f]+)/.exec(stdout)?.[1]}`)
    }
    const netAdmin = 1n << 12n
    expect(bits() & netAdmin).toBe(0n)
    expect(bits('--cap-add', 'CAP_NET_ADMIN') & netAdmin).toBe(netAdmin)
    for (const cap of ['FOO', 'cap_net_admin', 'NET_ADMIN', '']) {
      const { status, stderr } = bench.run(['build', '--cap-add', cap, '.'])
      expect([status, stderr.trim()]).toEqual([1, `cap ${cap} is invalid`])
    }
    expect(
      bench.run(['build', '--cap-add', 'CAP_NONSENSE', '-f', '-', '.'], dockerfile('FROM base:1\n')).status,
    ).toBe(1)
  })

  test('--network none has only the loopback, --isolation chroot no runtime', () => {
    const given = dockerfile('FROM base:1\nRUN ls /sys/class/net; echo end\n')
    const args = ['build', '--no-cache', '-f', '-', '.']
    expect(bench.ok([...args, '--network', 'none'], given)).toContain('/sys/class/net; echo end\nlo\nend\n')
    expect(bench.ok([...args, '--isolation', 'chroot'], dockerfile('FROM base:1\nRUN id -u\n'))).toContain(
      'id -u\n0\n',
    )
    expect(bench.run([...args, '--network', 'bridge'], given)).toMatchObject({ status: 1 })
    expect(bench.run([...args, '--isolation', 'vm'], given)).toMatchObject({ status: 1 })
  })

  test('--proxy gives the variables that were set as build arguments, and stores none', () => {
    const given = dockerfile('FROM base:1\nRUN echo "p=$HTTP_PROXY"\n')
    const args = [
      'build',
      '--build-arg',
      'HTTP_PROXY=http://u:pw@127.0.0.1:9',
      '-t',
      'proxied',
      '-f',
      '-',
      '.',
    ]
    expect(bench.ok(args, given)).toContain('\np=http://u:pw@127.0.0.1:9\n')
    expect(JSON.stringify(configOf('proxied'))).not.toContain('127.0.0.1')
  })
})

test('a wrong platform, network, layers or target is refused', () => {
  const given = dockerfile('FROM base:1 AS web\nRUN true\n')
  const failing = (...args: readonly string[]) => bench.run(['build', '-f', '-', ...args, '.'], given)
  expect(failing('--platform', 'nonsense')).toMatchObject({ status: 1, stdout: '' })
  for (const [platform, what] of [
    ['windows/amd64', 'operating system does not match, have "linux" want "windows"'],
    ['linux/s390x', 'architecture does not match, have '],
  ] as const) {
    expect(failing('--platform', platform)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining(what),
    })
  }
  expect(failing('--layers', 'none')).toMatchObject({ status: 1, stdout: '' })
  expect(failing('--target', 'wbe').stderr).toContain('web')
  expect(failing('--tag', 'UPPER')).toMatchObject({ status: 1, stdout: '' })
  expect(failing('--build-static', 'foo=1').stderr.trim()).toBe(
    'error runBuild: option "foo" not support by build-static',
  )
})

test('--no-cache runs again what the cache had', () => {
  const given = dockerfile('FROM base:1\nRUN cat /proc/sys/kernel/random/uuid\n')
  const first = bench.ok(['build', '-f', '-', '.'], given)
  const uuid = /^[0-9a-f-]{36}$/m
  expect(first).toMatch(uuid)
  const cached = bench.ok(['build', '-f', '-', '.'], given)
  expect(cached).toContain(' ---> Using cache')
  expect(cached).not.toMatch(uuid)
  expect(bench.ok(['build', '--no-cache', '-f', '-', '.'], given)).toMatch(uuid)
})

test('what the client of another user writes belongs to him', () => {
  const context = bench.context({ Dockerfile: 'FROM base:1\n' })
  const out = join(bench.work, 'theirs')
  mkdirSync(out)
  const [iid, archive] = [join(out, 'iid'), join(out, 'a.tar')]
  bench.ok(['build', '--iidfile', iid, '-o', `docker-archive:${archive}`, context])
  for (const path of [iid, archive]) expect(statSync(path).uid).toBe(process.getuid?.())
})
