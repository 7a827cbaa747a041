import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { root } from '../../scripts/lib/setup.mjs'
import { type ClientBench, createClientBench, tool } from '../support/client-bench.js'
import { connectControl } from '../support/control-client.js'
import { runTool, skopeo, startDocker, unmountBelow, withOwnEtc } from '../support/judges.js'
import { text, textIn } from '../support/proto-bytes.js'
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js'

interface Entry {
  readonly digest: string
  readonly size: number
  readonly mediaType: string
  readonly annotations?: Readonly<Record<string, string>>
  readonly platform: Readonly<Record<string, unknown>>
}
interface ListDocument {
  readonly mediaType: string
  readonly manifests: readonly Entry[]
}

const dockerList = 'application/vnd.docker.distribution.manifest.list.v2+json'
const ociIndex = 'application/vnd.oci.image.index.v1+json'

describe.skipIf(getuid?.() !== 0)('manifest lists and builds for several platforms (needs root)', () => {
  let bench: ClientBench
  let registry: RealRegistry
  let scratch: string

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'isula-lists-'))
    registry = await startRealRegistry()
    bench = await createClientBench()
    for (const architecture of ['amd64', 'arm64']) {
      buildFor(`part:${architecture}`, `linux/${architecture}`, architecture)
      bench.ok([
        'push',
        '--tls-verify=false',
        `part:${architecture}`,
        `${registry.host}/team/part:${architecture}`,
      ])
    }
  })
  afterAll(async () => {
    await bench?.[Symbol.asyncDispose]()
    await registry?.[Symbol.asyncDispose]()
    rmSync(scratch, { recursive: true, force: true })
  })

  function buildFor(name: string, platform: string, content: string, args: readonly string[] = []): string {
    const context = bench.context({
      Dockerfile: 'FROM scratch\nARG TARGETARCH\nCOPY f /\nENV A=$TARGETARCH\n',
      f: content,
    })
    return bench.ok(['build', '--platform', platform, '-t', name, ...args, context])
  }
  const manifest = (...args: readonly string[]): string => {
    const { status, stdout, stderr } = bench.daemon.client(['manifest', ...args], {
      env: { ISULABUILD_CLI_EXPERIMENTAL: 'enabled' },
    })
    if (status !== 0) throw new Error(stderr)
    return stdout
  }
  const inspect = (name: string): ListDocument => JSON.parse(manifest('inspect', name))
  const raw = (reference: string): string =>
    skopeo('inspect', '--tls-verify=false', '--raw', `docker://${registry.host}/${reference}`)
  const architectures = ({ manifests }: ListDocument): readonly unknown[] =>
    manifests.map(({ platform }) => platform['architecture'])

  test('local images and images of a registry are listed, pushed and read by others', async () => {
    const remote = `${registry.host}/team/part:arm64`
    manifest('create', '--tls-verify=false', 'mixed', 'part:amd64', `docker://${remote}`)
    const listed = inspect('mixed')
    expect(listed.mediaType).toBe(dockerList)
    expect(architectures(listed)).toEqual(['amd64', 'arm64'])
    expect(listed.manifests[1]?.digest).toBe(digestOf(raw('team/part:arm64')))
    expect(bench.ok(['images', 'mixed'])).toContain('latest')

    const digestFile = join(scratch, 'digest')
    manifest(
      'push',
      '--all',
      '--tls-verify=false',
      '--digestfile',
      digestFile,
      'mixed',
      `${registry.host}/other/list:1`,
    )
    const pushed = raw('other/list:1')
    expect(digestOf(pushed)).toBe(readFileSync(digestFile, 'utf8'))
    expect(architectures(JSON.parse(pushed))).toEqual(['amd64', 'arm64'])
    expect(registry.requests().filter((line) => /^POST .*other\/list.*mount=.* 201 /.test(line))).not.toEqual(
      [],
    )
    // Byte by byte what the other repository has.
    const { manifests } = JSON.parse(pushed) as ListDocument
    expect(raw(`other/list@${manifests[1]?.digest}`)).toBe(raw('team/part:arm64'))

    const conf = join(scratch, 'registries.conf')
    writeFileSync(conf, `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`)
    const name = `${registry.host}/other/list:1`
    const roots = ['--root', join(scratch, 'containers'), '--runroot', join(scratch, 'containers-run')]
    try {
      const inspect = ['podman', ...roots, '--storage-driver=vfs', 'manifest', 'inspect', name]
      const [program = '', ...args] = withOwnEtc(scratch, inspect)
      const seen = JSON.parse(runTool(program, args, { CONTAINERS_REGISTRIES_CONF: conf }))
      expect(architectures(seen)).toEqual(['amd64', 'arm64'])
    } finally {
      unmountBelow(scratch)
    }
    await using daemon = await startDocker()
    for (const architecture of ['amd64', 'arm64']) {
      daemon.docker('pull', '-q', '--platform', `linux/${architecture}`, name)
      expect(daemon.docker('inspect', '-f', '{{.Architecture}}', name).trim()).toBe(architecture)
      daemon.docker('create', '--platform', `linux/${architecture}`, '--name', 'judge', name, '/none')
      daemon.docker('cp', 'judge:/f', join(scratch, 'f'))
      expect(readFileSync(join(scratch, 'f'), 'utf8')).toBe(architecture)
      daemon.docker('rm', 'judge')
      daemon.docker('rmi', name)
    }
  })

  test('an entry is annotated, added and found by its digest', () => {
    manifest('create', '-f', 'oci', 'noted', 'part:amd64')
    manifest('annotate', '--arch=arm', '--variant=v6', '--annotation', 'a=b', 'noted', 'part:arm64')
    const { mediaType, manifests } = inspect('noted')
    expect(mediaType).toBe(ociIndex)
    expect(manifests[1]).toMatchObject({
      annotations: { a: 'b' },
      platform: { os: 'linux', architecture: 'arm', variant: 'v6' },
    })
    manifest('annotate', '--os-version=10', '--os-features=x,y', 'noted', String(manifests[0]?.digest))
    const after = inspect('noted').manifests
    expect(after).toHaveLength(2)
    expect(after[0]?.platform).toEqual({
      os: 'linux',
      architecture: 'amd64',
      'os.version': '10',
      'os.features': ['x', 'y'],
    })
    expect(after[1]).toEqual(manifests[1])
  })

  test('what cannot be is refused', () => {
    manifest('create', 'refused', 'part:amd64')
    expect(() => manifest('create', 'refused', 'part:amd64')).toThrow(
      'the name "refused:latest" is already in use',
    )
    expect(() => manifest('create', 'part:amd64')).toThrow('the name "part:amd64" is already in use')
    expect(() => manifest('create', 'x', 'refused')).toThrow('refused is a manifest list')
    expect(() => manifest('inspect', 'part:amd64')).toThrow('part:amd64 is not a manifest list')
    expect(() =>
      manifest('push', '--tls-verify=false', '--all=false', 'refused', `${registry.host}/empty/list:1`),
    ).toThrow('does not have it')
    manifest('create', '--amend', '--all', 'nested', 'refused')
    expect(inspect('nested')).toEqual(inspect('refused'))
  })

  test('a list holds its images, and goes by its name or ID alone', () => {
    buildFor('held:1', 'linux/s390x', 'held')
    const id = manifest('create', 'holding', 'held:1').trim()
    const kept = bench.run(['rm', 'held:1'])
    expect([kept.status, kept.stderr]).toEqual([
      1,
      expect.stringContaining('is in the manifest list "holding:latest"'),
    ])
    bench.ok(['rm', '-p'])
    bench.ok(['rm', id.slice(0, 12)])
    expect(bench.run(['images', 'holding']).status).toBe(1)
    bench.ok(['rm', 'held:1'])
  })

  test('a name goes from an image to a list and back', () => {
    buildFor('swap:1', 'linux/amd64', 'swap')
    buildFor('swap:1', 'linux/amd64,linux/arm64', 'swap')
    expect(architectures(inspect('swap:1'))).toEqual(['amd64', 'arm64'])
    buildFor('swap:1', 'linux/amd64', 'swap')
    expect(() => inspect('swap:1')).toThrow('swap:1 is not a manifest list')
  })

  test('a build for several platforms is a list, an OCI archive and at a registry', () => {
    const archive = join(scratch, 'all.tar')
    const context = bench.context({
      Dockerfile:
        'FROM --platform=$BUILDPLATFORM base:1 AS made\nARG TARGETARCH\nRUN echo $TARGETARCH >/made\nFROM scratch\nCOPY --from=made /made /\n',
    })
    const iid = join(scratch, 'iid')
    const output = bench.ok([
      ...['build', '--platform=linux/amd64,linux/arm64', '-t', 'multi:1', '--iidfile', iid],
      ...['-o', `oci-archive:${archive}:multi:1`, context],
    ])
    expect(output).toContain('[linux/arm64]')
    const list = inspect('multi:1')
    expect(architectures(list)).toEqual(['amd64', 'arm64'])
    const all = JSON.parse(runTool('skopeo', ['inspect', '--raw', `oci-archive:${archive}`]))
    expect(architectures(all)).toEqual(['amd64', 'arm64'])
    for (const architecture of ['amd64', 'arm64']) {
      const layout = join(scratch, `layout-${architecture}`)
      skopeo('--override-arch', architecture, 'copy', `oci-archive:${archive}:multi:1`, `dir:${layout}`)
      const { layers, config } = JSON.parse(readFileSync(join(layout, 'manifest.json'), 'utf8'))
      expect(JSON.parse(readFileSync(join(layout, config.digest.slice(7)), 'utf8')).architecture).toBe(
        architecture,
      )
      expect(tool('tar', ['-xOf', join(layout, layers[0].digest.slice(7)), 'made']).trim()).toBe(architecture)
    }
    bench.ok([
      ...['build', '--platform=linux/amd64,linux/arm64', '-t', 'multi:2', '--tls-verify=false'],
      ...['-o', `docker://${registry.host}/team/multi:2`, context],
    ])
    expect(architectures(JSON.parse(raw('team/multi:2')))).toEqual(['amd64', 'arm64'])
    const no = join(scratch, 'no.tar')
    const args = ['build', '--platform=linux/amd64,linux/arm64', '-o', `docker-archive:${no}`, context]
    const refused = bench.run(args)
    expect([refused.status, refused.stderr]).toEqual([
      1,
      expect.stringContaining('the image of one platform'),
    ])
    expect(existsSync(no)).toBe(false)
  })

  test('a list is tagged and pushed like an image', () => {
    buildFor('whole:1', 'linux/amd64,linux/arm64', 'whole')
    const name = `${registry.host}/team/whole:1`
    bench.ok(['tag', 'whole:1', name])
    bench.ok(['push', '--tls-verify=false', name])
    expect(architectures(JSON.parse(raw('team/whole:1')))).toEqual(['amd64', 'arm64'])
    bench.ok(['pull', '--tls-verify=false', '--policy=always', name])
    expect(() => inspect(name)).toThrow('is not a manifest list')
    bench.ok(['rm', 'whole:1'])
  })

  test('FROM a list takes the image of the platform', () => {
    buildFor('bases:1', 'linux/amd64,linux/arm64', 'base')
    const context = bench.context({ Dockerfile: 'FROM bases:1\nCOPY g /\n', g: 'more' })
    const archive = join(scratch, 'derived.tar')
    bench.ok([
      'build',
      '--pull=never',
      '--platform=linux/arm64',
      '-o',
      `docker-archive:${archive}:d:1`,
      context,
    ])
    expect(JSON.parse(runTool('skopeo', ['inspect', '--config', `docker-archive:${archive}`]))).toMatchObject(
      {
        architecture: 'arm64',
        config: { Env: expect.arrayContaining(['A=arm64']) },
      },
    )
    const missing = bench.run(['build', '--platform=linux/s390x', context])
    expect(missing.stderr).toContain('manifest list "bases:1" has no image for linux/s390x')
  })

  test('save gives all images of a list in OCI format, and the one for this machine in docker format', () => {
    buildFor('saved:1', 'linux/amd64,linux/arm64', 'saved')
    const oci = join(scratch, 'saved-oci.tar')
    bench.ok(['save', '-f', 'oci', '-o', oci, 'saved:1'])
    expect(architectures(JSON.parse(runTool('skopeo', ['inspect', '--raw', `oci-archive:${oci}`])))).toEqual([
      'amd64',
      'arm64',
    ])
    const docker = join(scratch, 'saved-docker.tar')
    bench.ok(['save', '-f', 'docker', '-o', docker, 'saved:1'])
    expect(
      JSON.parse(runTool('skopeo', ['inspect', '--config', `docker-archive:${docker}`])).architecture,
    ).toBe('amd64')
  })

  test('a RUN for a platform that nothing here can run fails before it begins', () => {
    const context = bench.context({ Dockerfile: 'FROM bases:1\nRUN ["/never"]\n' })
    buildFor('bases:1', 'linux/amd64,linux/riscv64', 'base')
    const { status, stderr } = bench.run(['build', '--platform=linux/riscv64', context])
    expect([status, stderr]).toEqual([1, expect.stringContaining('cannot RUN programs for linux/riscv64')])
    expect(stderr).toContain('qemu-user-static')
  })

  test('the original client makes, annotates, shows and pushes a list', async () => {
    const directory = join(scratch, 'original')
    cpSync(join(root, 'etc'), join(directory, 'etc'), { recursive: true })
    const insecure = `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`
    writeFileSync(join(directory, 'etc/registries.toml'), insecure)
    const daemon = await startDaemon({ directory, args: ['--experimental'] })
    const control = connectControl(daemon.socket)
    try {
      const [amd64, arm64] = ['amd64', 'arm64'].map((tag) => `${registry.host}/team/part:${tag}`)
      const list = text(1, 'v1:1')
      const created = await control.unary('ManifestCreate', Buffer.concat([list, text(2, [amd64 ?? ''])]))
        .ended
      expect(created).toMatchObject({ code: 0, details: '' })
      const again = await control.unary('ManifestCreate', Buffer.concat([text(1, 'x'), text(2, ['v1:1'])]))
        .ended
      expect(again.details).toContain('v1:1 is a manifest list')
      const annotation = Buffer.concat([list, text(2, arm64 ?? ''), text(3, 'arm'), text(6, 'v7')])
      expect(await control.unary('ManifestAnnotate', annotation).ended).toMatchObject({ code: 0 })
      const shown = await control.unary('ManifestInspect', list).ended
      const document = textIn(shown.messages[0] ?? Buffer.alloc(0), 1)
      expect(document).toBe(JSON.stringify(JSON.parse(document), undefined, 4))
      expect(architectures(JSON.parse(document))).toEqual(['amd64', 'arm'])
      const pushing = Buffer.concat([list, text(2, `${registry.host}/v1/list:1`)])
      expect(await control.stream('ManifestPush', pushing).ended).toMatchObject({ code: 0, details: '' })
      expect(JSON.parse(raw('v1/list:1'))).toEqual(JSON.parse(document))
    } finally {
      control.close()
      await daemon.stop()
    }
  })

  test('a RUN for a platform with an emulator runs', async () => {
    const place = '/proc/sys/fs/binfmt_misc'
    const mounted = `mount -t binfmt_misc none ${place}`
    const machine = '\\x00\\x16'
    const magic = `\\x7fELF\\x02\\x02\\x01${'\\x00'.repeat(9)}\\x00\\x02${machine}`
    // A stand-in for an emulator: it shows the program it is given.
    const emulator = join(scratch, 'cat')
    copyFileSync('/bin/busybox', emulator)
    const rule = `:isula-test:M::${magic}::${emulator}:F`
    // A rule goes with the last mount of the machine, if not before.
    const forget = `{ [ ! -e ${place}/isula-test ] || echo -1 >${place}/isula-test; }`
    const register = `${mounted} && ${forget} && printf %s '${rule}' >${place}/register && exec "$@"`
    const through = ['unshare', '-m', '--propagation=private', 'sh', '-c', register, 'sh']
    let other: TestDaemon | undefined
    try {
      other = await startDaemon({ directory: join(scratch, 'emulating'), through })
      const program = Buffer.alloc(64)
      program.set([0x7f, 0x45, 0x4c, 0x46, 2, 2, 1])
      program.writeUInt16BE(2, 16)
      program.writeUInt16BE(22, 18)
      const context = bench.context({ Dockerfile: 'FROM scratch\nCOPY --chmod=755 p /\nRUN ["/p"]\n' })
      writeFileSync(join(context, 'p'), Buffer.concat([program, Buffer.from('\nemulated\n')]))
      const { status, stdout, stderr } = other.image([
        'build',
        '--platform=linux/s390x',
        '-t',
        'e:1',
        context,
      ])
      expect([status, stdout, stderr]).toEqual([0, expect.stringContaining('emulated'), ''])
    } finally {
      tool('unshare', ['-m', '--propagation=private', 'sh', '-c', `${mounted} && ${forget}`])
      await other?.stop()
    }
  })
})
