import { describe, expect, test } from 'vitest'
import type { RunMount } from './plan.js'
import { planFailure, planLines, runs } from './plan-fixture.js'

async function run(...lines: string[]) {
  const vertex = runs(await planLines(['FROM busybox', ...lines])).at(-1)
  if (vertex === undefined) throw new Error('no RUN was planned')
  return vertex
}

async function mount(options: string, ...before: string[]): Promise<RunMount | undefined> {
  return (await run(...before, `RUN --mount=${options} true`)).mounts[0]
}

async function mountFailure(options: string): Promise<string> {
  const error = await planFailure(['FROM busybox', `RUN --mount=${options} true`])
  expect(error.code).toBe('ISB_DOCKERFILE_SYNTAX')
  expect(error.details.source?.start.line).toBe(2)
  return error.message
}

describe('RUN', () => {
  test('has at most 500 mounts', async () => {
    const line = (count: number): string => {
      const mounts = Array.from({ length: count }, (_, i) => `--mount=type=tmpfs,target=/m${i}`)
      return `RUN ${mounts.join(' ')} true`
    }
    expect((await run(line(500))).mounts).toHaveLength(500)
    const error = await planFailure(['FROM busybox', line(501)])
    expect(error.code).toBe('ISB_LIMIT_EXCEEDED')
    expect(error.message).toBe('RUN has 501 mounts, at most 500 are allowed')
    expect(error.details.source?.start.line).toBe(2)
  })

  test('takes user, directory and shell of its line, and never expands its command', async () => {
    const vertex = await run('USER u:g', 'WORKDIR /w', 'SHELL ["/bin/ash","-ec"]', 'RUN echo $HOME "a"')
    expect(vertex).toMatchObject({
      user: 'u:g',
      cwd: '/w',
      args: ['/bin/ash', '-ec', 'echo $HOME "a"'],
      network: 'default',
      security: 'sandbox',
      scripts: [],
    })
    expect((await run('RUN ["echo", "$HOME"]')).args).toEqual(['echo', '$HOME'])
  })

  test('of an empty list is refused', async () => {
    const error = await planFailure(['FROM busybox', 'RUN []'])
    expect(error.message).toContain('RUN')
    expect(error.details.source?.start.line).toBe(2)
  })

  test('a here-document alone is the script of the shell', async () => {
    const vertex = await run('RUN <<EOF', 'echo $a', 'EOF')
    expect(vertex).toMatchObject({ args: ['/bin/sh', '-c', 'echo $a\n'], scripts: [] })
  })

  test('a here-document with an interpreter is a file', async () => {
    const vertex = await run('RUN <<EOF', '#!/usr/bin/env python', 'print(1)', 'EOF')
    expect(vertex.args).toEqual(['/bin/sh', '-c', '/run/isula-build/EOF'])
    expect(vertex.scripts).toEqual([
      { path: '/run/isula-build/EOF', content: '#!/usr/bin/env python\nprint(1)\n' },
    ])
  })

  test('a here-document with a command goes to the shell as written', async () => {
    const vertex = await run('RUN cat <<A - <<B', 'a $x', 'A', 'b', 'B')
    expect(vertex.args).toEqual(['/bin/sh', '-c', 'cat <<A - <<B\na $x\nA\nb\nB'])
  })

  test('networks and security modes are checked', async () => {
    expect(await run('RUN --network=none --security=insecure true')).toMatchObject({
      network: 'none',
      security: 'insecure',
    })
    expect((await planFailure(['FROM busybox', 'RUN --network=hots true'])).hint).toContain('host')
    expect((await planFailure(['FROM busybox', 'RUN --security=x true'])).message).toContain('x')
  })
})

describe('RUN --mount', () => {
  test('binds the context by default, read-only', async () => {
    expect(await mount('target=/c')).toEqual({
      type: 'bind',
      target: '/c',
      from: { kind: 'context', context: '' },
      source: '',
      readWrite: false,
    })
    expect(await mount('dst=/c,src=a/../b,rw')).toMatchObject({ source: 'b', readWrite: true })
    expect(await mount('target=/c,readonly=false')).toMatchObject({ readWrite: true })
  })

  test('values are expanded, targets taken relative to WORKDIR', async () => {
    expect(await mount('type=${T},source=$S,target=x/', 'ARG S=d T=bind', 'WORKDIR /w')).toMatchObject({
      source: 'd',
      target: '/w/x',
    })
  })

  test('fields may be quoted as in CSV', async () => {
    expect(await mount(`'type=bind,"source=a,b",target=/c'`)).toMatchObject({ source: 'a,b' })
  })

  test('a cache is shared, 0755 root, and named after its target', async () => {
    expect(await mount('type=cache,target=/root/.cache/')).toEqual({
      type: 'cache',
      target: '/root/.cache',
      cacheId: '/root/.cache',
      from: undefined,
      source: '',
      readOnly: false,
      sharing: 'shared',
      mode: 0o755,
      uid: 0,
      gid: 0,
    })
    expect(
      await mount('type=cache,id=i,target=/c,sharing=LOCKED,mode=0700,uid=5,gid=6,ro,from=busybox,source=/s'),
    ).toMatchObject({
      cacheId: 'i',
      sharing: 'locked',
      mode: 0o700,
      uid: 5,
      gid: 6,
      readOnly: true,
      from: { kind: 'vertex' },
      source: 's',
    })
  })

  test('a tmpfs may have a size', async () => {
    expect(await mount('type=tmpfs,target=/t')).toEqual({ type: 'tmpfs', target: '/t', size: undefined })
    expect(await mount('type=tmpfs,target=/t,size=1.5KiB')).toMatchObject({ size: 1536 })
  })

  test('a secret is a file in /run/secrets, a file elsewhere, a variable, or both', async () => {
    expect(await mount('type=secret,id=a/b')).toEqual({
      type: 'secret',
      id: 'a/b',
      target: '/run/secrets/b',
      env: undefined,
      required: false,
      mode: 0o400,
      uid: 0,
      gid: 0,
    })
    expect(await mount('type=secret,target=/etc/tok,required')).toMatchObject({
      id: 'tok',
      target: '/etc/tok',
      required: true,
    })
    expect(await mount('type=secret,id=t,env=TOKEN')).toMatchObject({ env: 'TOKEN', target: undefined })
    expect(await mount('type=secret,id=t,env=')).toMatchObject({ env: 't' })
    expect(await mount('type=secret,id=t,env=T,target=/f')).toMatchObject({ env: 'T', target: '/f' })
  })

  test('ssh has the id default', async () => {
    expect(await mount('type=ssh')).toEqual({
      type: 'ssh',
      id: 'default',
      target: undefined,
      required: false,
      mode: 0o600,
      uid: 0,
      gid: 0,
    })
  })

  test.each([
    ['type=bind,target=/x,nosuch=1', '"nosuch"'],
    ['type=bind,target=/x,from', '"from"'],
    ['type=nope,target=/x', '"nope"'],
    ['type=bind,target=/', 'root directory'],
    ['target=/x,mode=0644', '"mode"'],
    ['type=cache,target=/x,mode=8', '"8"'],
    ['type=cache,target=/x,uid=-1', '"-1"'],
    ['type=cache,target=/x,sharing=all', '"all"'],
    ['type=cache,target=/x,required', '"required"'],
    ['type=tmpfs,target=/x,size=many', '"many"'],
    ['type=secret', 'id'],
    ['type=secret,id=a,source=b', 'both'],
    ['type=secret,id=..', 'target'],
    ['type=secret,id=a/.', 'target'],
    ['type=secret,id=a,env=A=B', 'A=B'],
    ['type=ssh,source=a', 'source'],
    ['target=/x,ro=maybe', '"maybe"'],
    [`'"target=/x'`, 'quote'],
    [`'tar"get=/x'`, 'quote'],
    ['from=a$b,target=/x', 'expansion'],
  ])('%s is refused', async (options, message) => {
    expect(await mountFailure(options)).toContain(message)
  })

  test.each(['/proc', '/proc/1', '/sys', '/dev/shm', '/dev/', '/x/../sys/fs', '../../dev'])(
    'a target at %s is refused',
    async (target) => {
      for (const type of ['bind', 'cache', 'tmpfs', 'secret', 'ssh']) {
        expect(await mountFailure(`type=${type},id=a,target=${target}`)).toContain('mount target')
      }
    },
  )
})
