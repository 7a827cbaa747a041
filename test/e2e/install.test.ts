import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

/** The service as it is installed, below a root of its own: nothing of this machine changes. */

const script = fileURLToPath(new URL('../../scripts/install-service.mjs', import.meta.url))
const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0
let work = ''
let root = ''

function installer(...args: readonly string[]) {
  return spawnSync(process.execPath, [script, '--root', root, ...args], { encoding: 'utf8', timeout: 60_000 })
}

function install(): string {
  const { status, stdout, stderr } = installer('--built')
  if (status !== 0) throw new Error(`${stdout}${stderr}`)
  return stdout
}

const modeOf = (path: string): number => statSync(join(root, path)).mode & 0o7777
const tree = (): string[] =>
  readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(
    (path) => !lstatSync(join(root, path)).isDirectory(),
  )

describe.skipIf(getuid?.() !== 0)('the installer', () => {
  beforeAll(() => {
    work = mkdtempSync(join(tmpdir(), 'isula-install-'))
    root = join(work, 'root')
    mkdirSync(join(root, 'etc'), { recursive: true })
    writeFileSync(join(root, 'etc/group'), 'root:x:0:\nstaff:x:50:\n')
    install()
  })
  afterAll(() => rmSync(work, { recursive: true, force: true }))

  test('puts everything in its place with the modes of the manual', () => {
    const expected: Readonly<Record<string, number>> = {
      '/usr/bin/isula-build': 0o555,
      '/usr/bin/ctr-img': 0o555,
      '/usr/bin/isula-builder': 0o550,
      '/usr/lib/systemd/system/isula-build.service': 0o640,
      '/etc/isula-build': 0o650,
      '/etc/isula-build/configuration.toml': 0o600,
      '/etc/isula-build/storage.toml': 0o600,
      '/etc/isula-build/registries.toml': 0o600,
      '/etc/isula-build/policy.json': 0o600,
      '/usr/share/bash-completion/completions/isula-build': 0o644,
    }
    for (const name of ['isula-build', 'ctr-img', 'isula-builder']) {
      // Followed below the root by hand: the links are absolute.
      const to = readlinkSync(join(root, 'usr/bin', name))
      expect([name, modeOf(to)]).toEqual([name, expected[`/usr/bin/${name}`]])
    }
    for (const [path, mode] of Object.entries(expected)) {
      if (!path.startsWith('/usr/bin/')) expect([path, modeOf(path)]).toEqual([path, mode])
    }
  })

  test('makes the group, which owns the configuration directory', () => {
    const line = readFileSync(join(root, 'etc/group'), 'utf8')
      .split('\n')
      .find((entry) => entry.startsWith('isula:'))
    expect(line).toBeDefined()
    expect(statSync(join(root, 'etc/isula-build')).gid).toBe(Number(line?.split(':')[2]))
    expect(readFileSync(join(root, 'usr/lib/sysusers.d/isula-build.conf'), 'utf8')).toMatch(/^g isula -$/m)
  })

  test('gives the programs the Node.js its modules are compiled for', () => {
    const text = readFileSync(join(root, 'usr/lib/isula-build/bin/isula-builder'), 'utf8')
    expect(text.split('\n')[0]).toMatch(/^#!\/usr\/bin\/env -S -u NODE_OPTIONS /)
    expect(text.split('\n')[0]).toContain(` ${process.execPath} --`)
    for (const name of ['isula-build', 'ctr-img']) {
      const client = readFileSync(join(root, 'usr/lib/isula-build/bin', name), 'utf8')
      expect(client).toContain(`\nexec ${process.execPath} --v8-pool-size=1 "$0" "$@"\n`)
    }
  })

  test('installs a daemon and a client that work without the checkout', async () => {
    const socket = join(work, 'builder.sock')
    const host = `unix://${socket}`
    const env = { ...process.env, ISULABUILD_HOST: host, NOTIFY_SOCKET: '' }
    const program = (name: string): string => join(root, 'usr/lib/isula-build/bin', name)
    const roots = ['--dataroot', join(work, 'data'), '--runroot', join(work, 'run'), '--group', 'root']
    const config = ['--config-dir', join(root, 'etc/isula-build')]
    const daemon = spawn(program('isula-builder'), [...roots, ...config, '--host', host], {
      env,
      cwd: '/',
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const ended = once(daemon, 'exit')
    try {
      let log = ''
      for await (const chunk of daemon.stdout.iterator({ destroyOnReturn: false })) {
        log += chunk
        if (log.includes('daemon.ready')) break
      }
      daemon.stdout.resume()
      const context = join(work, 'context')
      mkdirSync(context)
      writeFileSync(join(context, 'Dockerfile'), 'FROM scratch\nCOPY Dockerfile /\n')
      const client = (...args: readonly string[]) =>
        spawnSync(program('ctr-img'), args, { env, cwd: '/', encoding: 'utf8' })
      const built = client('build', '-t', 'installed:1', context)
      expect([built.status, built.stderr]).toEqual([0, ''])
      expect(client('images').stdout).toMatch(/installed +1 /)
      const key = join(root, 'etc/isula-build/isula-build.pub')
      expect(statSync(key).mode & 0o7777).toBe(0o440)
    } finally {
      daemon.kill('SIGTERM')
      await ended
    }
    expect(daemon.exitCode).toBe(0)
    expect(existsSync(join(root, 'etc/isula-build/isula-build.pub'))).toBe(false)
  })

  test.skipIf(!hasSystemd)('installs a unit that systemd accepts', () => {
    const unit = readFileSync(join(root, 'usr/lib/systemd/system/isula-build.service'), 'utf8')
    expect(unit).toContain('ExecStart=/usr/bin/isula-builder\n')
    const copy = join(work, 'isula-build.service')
    const installed = join(root, 'usr/lib/isula-build/bin/isula-builder')
    writeFileSync(copy, unit.replace('/usr/bin/isula-builder', installed))
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', copy], {
      encoding: 'utf8',
    })
    const own = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('isula-build.service'))
    expect(own).toEqual([])
    expect(status).toBe(0)
  })

  test('changes nothing the second time, keeps changed configuration and drops stale files', () => {
    // Programs make the code caches that they miss, which are theirs to keep or not.
    const installed = () => tree().filter((path) => !path.endsWith('.cache'))
    const before = installed()
    const changed = join(root, 'etc/isula-build/configuration.toml')
    writeFileSync(changed, 'debug = true\n')
    const stale = join(root, 'usr/lib/isula-build/dist/daemon/old.cjs')
    writeFileSync(stale, '')
    const group = readFileSync(join(root, 'etc/group'), 'utf8')
    expect(install()).toContain(`Kept ${changed}`)
    expect(readFileSync(changed, 'utf8')).toBe('debug = true\n')
    expect(readFileSync(join(root, 'etc/group'), 'utf8')).toBe(group)
    expect(existsSync(stale)).toBe(false)
    expect(installed()).toEqual(before)
  })

  test('does not replace a program of somebody else', () => {
    const link = join(root, 'usr/bin/ctr-img')
    rmSync(link)
    writeFileSync(link, 'theirs')
    const { status, stderr } = installer('--built')
    expect([status, stderr]).toEqual([1, `${link} belongs to something else; remove that first\n`])
    expect(readFileSync(link, 'utf8')).toBe('theirs')
    rmSync(link)
  })

  test('takes away what it brought and leaves the configuration', () => {
    install()
    const { status, stdout } = installer('--uninstall')
    expect(status).toBe(0)
    expect(stdout).toContain(`Kept ${join(root, 'etc/isula-build')}`)
    expect(tree().filter((path) => !path.startsWith('etc/'))).toEqual([])
    expect(tree().filter((path) => path.startsWith('etc/isula-build/'))).toHaveLength(4)
    expect(installer('--uninstall').status).toBe(0)
  })
})
