import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench, readDockerArchive, tool } from '../support/client-bench.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

const program = new URL('../../bin/ctr-img', import.meta.url).pathname
let archives = 0

/** A docker archive of an image, unpacked layer by layer. */
function saved(image: string) {
  const directory = join(bench.work, `archive-${archives++}`)
  mkdirSync(directory)
  const path = join(directory, 'image.tar')
  bench.ok(['save', image, '-o', path])
  const { manifest, config } = readDockerArchive(path)
  tool('tar', ['-C', directory, '-xf', path])
  const layers = (manifest[0]?.Layers ?? []).map((layer) => join(directory, layer))
  return { config: config(), layers }
}

describe('--build-static', () => {
  const files = {
    Dockerfile: [
      'FROM base:1 AS build',
      'RUN mkdir -p /out/deep && echo made > /out/deep/file && date > /dev/null && touch /tmp/later',
      'FROM base:1',
      'ENV A=1',
      'COPY dir /dir/',
      'COPY --from=build /out /out',
      'ADD --chown=1:2 more.tar /more/',
      'RUN ln -s /dir/a /link && ln /dir/a /hard && mkdir /empty && chmod 700 /empty',
      'WORKDIR /srv/deep',
    ].join('\n'),
    'dir/a': 'a',
    'dir/sub/b': 'b',
  }
  const time = ['--build-static', 'build-time=2020-05-23 10:55:33']

  function context(): string {
    const directory = bench.context(files)
    tool('tar', ['-C', join(directory, 'dir'), '--mtime=2001-01-01', '-cf', join(directory, 'more.tar'), 'a'])
    return directory
  }
  const build = (directory: string, ...more: readonly string[]): string =>
    bench.ok(['build', '-q', '-t', 'static', ...time, ...more, directory]).trim()

  test('gives the same ID from another directory, later, without the cache and in an empty store', () => {
    const first = context()
    const id = build(first, '--no-cache')
    expect(build(first)).toBe(id)
    const second = context()
    for (const name of ['dir/a', 'dir/sub/b', 'dir', 'dir/sub', '.']) utimesSync(join(second, name), 5, 5)
    expect(build(second, '--no-cache')).toBe(id)
    bench.ok(['rm', '-a'])
    bench.ok(['import', bench.baseTar, 'base:1'])
    expect(build(second)).toBe(id)
    expect(build(first, '--build-static', 'build-time=2020-05-23 10:55:34')).not.toBe(id)
  })

  test('gives the same ID with one layer per stage and through a tar', () => {
    const directory = context()
    const id = build(directory, '--layers', 'stage', '--no-cache')
    const other = bench.work
    const copy = join(other, 'static-copy')
    cpSync(directory, copy, { recursive: true })
    expect(build(copy, '--layers', 'stage', '--no-cache')).toBe(id)
    const tar = Buffer.from(tool('tar', ['-C', copy, '-c', '.'], { encoding: 'latin1' }), 'latin1')
    const piped = bench.ok(['build', '-q', ...time, '--layers=stage', '--no-cache', '-'], { input: tar })
    expect(piped.trim()).toBe(id)
  })

  test('sets every time of the config, the history and the new files', () => {
    const directory = context()
    build(directory, '--no-cache')
    const { config, layers } = saved('static')
    expect(config.created).toBe('2020-05-23T10:55:33Z')
    const own = config.history.slice(1)
    expect(new Set(own.map(({ created }) => created))).toEqual(new Set(['2020-05-23T10:55:33Z']))
    const times = layers
      .slice(1)
      .flatMap((layer) => tool('tar', ['--full-time', '--utc', '-tvf', layer]).trim().split('\n'))
    expect(times.length).toBeGreaterThan(10)
    for (const line of times) expect(line).toContain(' 2020-05-23 10:55:33 ')
  })
})

describe('--layers=stage', () => {
  const text = [
    'FROM base:1 AS low',
    'RUN mkdir -p /d/kept /opaque /gone && echo 1 > /d/one && echo 2 > /d/two && echo old > /opaque/old \\',
    '  && echo x > /gone/x && echo h > /hard1 && echo f > /etc/file && ln /hard1 /hard2',
    'FROM low',
    'RUN rm /d/one && rm -r /gone && rm -r /opaque && mkdir /opaque && echo new > /opaque/new',
    'RUN echo more >> /hard1 && rm /etc/file && mkdir /etc/file && touch /etc/file/inside',
    'RUN touch /short && ln /d/two /second',
    'RUN rm /short && mv /d/kept /d/moved && ln -s two /d/link && mkfifo /pipe && chown 5:6 /d/two && echo p > /pair1 && ln /pair1 /pair2',
  ].join('\n')
  const listing =
    'find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /list -o -path /bin \\) -prune -o -exec stat -c "%n %F %a %u %g" {} + | sort'
  const list = (image: string): string => {
    const input = `FROM ${image}\nRUN ${listing}; cat /d/two /hard1 /hard2 /opaque/new /second\n`
    const output = bench.ok(['build', '--no-cache', '-f', '-', '.'], { input })
    return (output.split('STEP  2')[1] ?? '')
      .split('\n')
      .slice(1)
      .filter((line) => !line.startsWith('Committed') && !line.startsWith('Build'))
      .join('\n')
  }

  test('has one layer per stage and the same file system as one per instruction', () => {
    bench.ok(['build', '-t', 'stages', '--layers', 'stage', '-f', '-', '.'], { input: text })
    bench.ok(['build', '-t', 'instructions', '-f', '-', '.'], { input: text })
    const [stages, instructions] = [saved('stages'), saved('instructions')]
    expect(stages.layers).toHaveLength(3)
    expect(instructions.layers).toHaveLength(6)
    expect(stages.config.history.filter((entry) => entry.empty_layer !== true)).toHaveLength(3)
    expect(list('stages')).toBe(list('instructions'))
    expect(list('stages')).toMatch(/^\/opaque\/new regular file 644 0 0$/m)
    expect(list('stages')).not.toMatch(/\/opaque\/old|\/d\/one|\/gone|\/short|\/d\/kept/)
  })

  test('without changes gives the same image again', () => {
    const build = (input: string) =>
      bench.ok(['build', '-q', '-t', 'again', '--layers=stage', '-f', '-', '.'], { input })
    const first = build(text)
    expect(build(text)).toBe(first)
    expect(build(`${text}\nRUN echo changed > /changed`)).not.toBe(first)
  })

  test('its layer tars give that file system to a program that only knows OCI whiteouts', () => {
    bench.ok(['build', '-t', 'stages', '--layers', 'stage', '-f', '-', '.'], { input: text })
    const { layers } = saved('stages')
    const top = tool('tar', ['-tf', layers[2] ?? ''])
      .split('\n')
      .map((name) => name.replace(/^\.\//, ''))
    expect(top).toContain('d/.wh.one')
    expect(top).toContain('.wh.gone')
    expect(top.some((name) => name === 'opaque/.wh..wh..opq' || name === 'opaque/.wh.old')).toBe(true)
    expect(top).not.toContain('short')
    expect(tool('tar', ['-tvf', layers[2] ?? ''])).toMatch(/^h.* pair2 link to pair1$/m)
  })
})

describe('RUN --mount=type=ssh', () => {
  /** The host's ssh-add with its libraries. */
  function context(...lines: readonly string[]): string {
    const directory = bench.context({ Dockerfile: lines.join('\n') })
    const libraries = tool('ldd', ['/usr/bin/ssh-add']).match(/\/\S+/g) ?? []
    for (const path of ['/usr/bin/ssh-add', ...libraries]) {
      mkdirSync(join(directory, dirname(path)), { recursive: true })
      cpSync(path, join(directory, path), { dereference: true })
    }
    return directory
  }

  /** An agent with one key. */
  function startAgent(name: string) {
    const socket = join(bench.work, `${name}.sock`)
    const key = join(bench.work, `${name}.key`)
    const pid = Number(/SSH_AGENT_PID=(\d+)/.exec(tool('ssh-agent', ['-a', socket, '-s']))?.[1])
    tool('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', `key of ${name}`, '-f', key])
    tool('ssh-add', ['-q', key], { env: { ...process.env, SSH_AUTH_SOCK: socket } })
    return { socket, [Symbol.dispose]: () => void process.kill(pid) }
  }

  test('reaches a real agent with its keys, from a user of the image too', () => {
    const directory = context(
      'FROM base:1',
      'COPY . /',
      'RUN --mount=type=ssh /usr/bin/ssh-add -l && /usr/bin/ssh-add -L',
      'USER 1000',
      'RUN --mount=type=ssh,uid=1000,target=/agent /usr/bin/ssh-add -l; ls -ln /agent; echo $SSH_AUTH_SOCK',
      'RUN --mount=type=ssh /usr/bin/ssh-add -l || echo refused',
      'RUN test -e /agent || echo gone; echo "sock=$SSH_AUTH_SOCK"',
    )
    using agent = startAgent('one')
    const output = bench.ok(['build', '--ssh', 'default', directory], {
      env: { SSH_AUTH_SOCK: agent.socket },
    })
    expect(output.match(/SHA256:\S+ key of one \(ED25519\)/g)).toHaveLength(2)
    expect(output).toMatch(/^ssh-ed25519 \S+ key of one$/m)
    expect(output).toMatch(/^srw-------.* 1000 .* \/agent$/m)
    expect(output).toContain('\n/agent\n')
    expect(output).toContain('\nrefused\n')
    expect(output).toContain('\ngone\nsock=\n')
    // Nothing says what an agent answers, so such a RUN is never taken from the cache.
    const again = bench.ok(['build', '--ssh', `default=${agent.socket}`, directory])
    expect(again.match(/SHA256:\S+ key of one/g)).toHaveLength(2)
    const left = join(bench.daemon.run, 'agents')
    expect(existsSync(left) ? readdirSync(left) : []).toEqual([])
  })

  test('is required or left out when no agent was given', () => {
    const given = (options: string) => ({
      input: `FROM base:1\nRUN --mount=type=ssh${options} echo "sock=$SSH_AUTH_SOCK"\n`,
    })
    expect(bench.ok(['build', '-f', '-', '.'], given(''))).toContain('\nsock=\n')
    const { status, stderr } = bench.run(['build', '-f', '-', '.'], given(',required=true,id=git'))
    expect(status).toBe(1)
    expect(stderr).toContain('ssh agent "git" is required but was not given')
    expect(stderr).toContain('--ssh git')
  })

  test('that a client offers in vain is told before the build', () => {
    const failing = (value: string, env: Record<string, string> = {}) =>
      bench.run(['build', '--ssh', value, '.'], { env }).stderr.trim()
    expect(failing('default', { SSH_AUTH_SOCK: '' })).toBe(
      'error runBuild: ssh agent default: SSH_AUTH_SOCK is not set',
    )
    expect(failing('a=/nonexistent')).toContain('no such file or directory')
    expect(failing(`a=${bench.baseTar}`)).toContain('is not the socket of an agent')
  })

  test('keeps several agents apart, for stages that run at the same time', () => {
    using one = startAgent('first')
    using two = startAgent('second')
    const stage = (name: string): readonly string[] => [
      `FROM tools AS ${name}`,
      `RUN --mount=type=ssh,id=${name} for i in 1 2 3 4 5; do /usr/bin/ssh-add -L; sleep 0.1; done > /keys`,
    ]
    const last = ['FROM base:1', 'COPY --from=a /keys /a', 'COPY --from=b /keys /b', 'RUN cat /a /b']
    const directory = context('FROM base:1 AS tools', 'COPY . /', ...stage('a'), ...stage('b'), ...last)
    const agents = ['--ssh', `a=${one.socket}`, '--ssh', `b=${two.socket}`]
    const output = bench.ok(['build', ...agents, directory])
    const keys = output.match(/^ssh-ed25519 \S+ key of .*$/gm)?.map((line) => line.split(' ').at(-1))
    expect(keys).toEqual([...Array(5).fill('first'), ...Array(5).fill('second')])
  })
})

test('a client in another mount namespace sends what only it can see', () => {
  const directory = bench.context({ Dockerfile: 'FROM base:1\nCOPY . /c\n', hidden: 'the daemon sees this' })
  const inner = join(bench.work, 'inner')
  mkdirSync(inner)
  writeFileSync(join(inner, 'Dockerfile'), 'FROM base:1\nCOPY . /c\nRUN ls -A /c; cat /c/f\n')
  writeFileSync(join(inner, 'f'), 'the client sees this\n')
  writeFileSync(join(inner, 'left.log'), '')
  writeFileSync(join(inner, '.dockerignore'), '*\n!keep\n!f\n')
  writeFileSync(join(inner, 'Dockerfile.dockerignore'), '*.log\nDockerfile*\n')
  const script = 'mount --bind "$1" "$2" && exec "$3" "$0" build --no-cache "$2"'
  const { status, stdout, stderr } = spawnSync(
    'unshare',
    ['-m', 'sh', '-c', script, program, inner, directory, process.execPath],
    { encoding: 'utf8', env: { ...process.env, ISULABUILD_HOST: bench.daemon.host } },
  )
  expect([stderr, status]).toEqual(['', 0])
  expect(stdout).toContain('\n.dockerignore\nf\nthe client sees this\n')
})
