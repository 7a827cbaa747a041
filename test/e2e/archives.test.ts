import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { importRootfs } from '../../packages/builder-daemon/src/export/import.js'
import { loadArchive } from '../../packages/builder-daemon/src/export/load.js'
import type { LoadedImage } from '../../packages/builder-daemon/src/export/load-images.js'
import { saveArchive } from '../../packages/builder-daemon/src/export/save.js'
import {
  type Bench,
  createBench,
  dockerArchive,
} from '../../packages/builder-daemon/src/export/test-archives.js'
import { unmountBelow, withOwnEtc } from '../support/judges.js'

/** What other tools make of the archives written here, and the other way round. */

const name = 'localhost/judged:1.0'
const isRoot = process.getuid?.() === 0
let bench: Bench
let work: string
let image: LoadedImage
const archives = { docker: '', oci: '' }

function run(...[program = '', ...args]: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', timeout: 120_000 })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed:\n${stdout}${stderr}`)
  return stdout
}

function layerOf(script: string): Buffer {
  const root = mkdtempSync(join(work, 'layer-'))
  run('/bin/sh', '-ec', `cd "$0"; ${script}`, root)
  run('tar', '--xattrs', '--format=pax', '-C', root, '-cf', `${root}.tar`, '.')
  return readFileSync(`${root}.tar`)
}

async function load(path: string): Promise<readonly LoadedImage[]> {
  const fd = openSync(path, 'r')
  try {
    return await loadArchive({ fd, path }, bench.services, bench.options)
  } finally {
    closeSync(fd)
  }
}

/** What a judge wrote loads here with the same layers. */
async function expectSameLayers(path: string): Promise<void> {
  const [loaded, ...rest] = await load(path)
  expect(rest).toEqual([])
  expect(loaded?.record.config.rootfs.diff_ids).toEqual(image.record.config.rootfs.diff_ids)
  const layers = loaded?.record.layers.map((layer) => layer.diffId)
  expect(layers).toEqual(image.record.config.rootfs.diff_ids)
}

async function save(format: 'docker' | 'oci'): Promise<string> {
  const path = join(work, `${format}.tar`)
  const fd = openSync(path, 'wx')
  try {
    const images = [{ record: image.record, names: [name] }]
    await saveArchive({ images, format, fd }, bench.services, bench.options)
  } finally {
    closeSync(fd)
  }
  return path
}

beforeAll(async () => {
  if (!isRoot) return
  work = mkdtempSync(join(tmpdir(), 'judges-'))
  bench = await createBench()
  const bottom = layerOf(`
    mkdir -p bin etc/deep var/empty; cp /bin/busybox bin/busybox; ln bin/busybox bin/sh; ln -s busybox bin/ls
    echo one > etc/one; echo two > "etc/deep/$(printf 'latin\\351')"; chmod 4755 bin/busybox; chmod 1777 var/empty
    chown 123:456 etc/one; setfattr -n user.note -v some etc/one || true; touch -d '2001-02-03 04:05:06' etc/one`)
  const top = layerOf(
    'mkdir -p etc var/empty; touch etc/.wh.one var/empty/.wh..wh..opq; echo three > etc/three',
  )
  const archive = dockerArchive({ layers: [bottom, top], names: [name] })
  const [loaded] = await bench.withFile(archive, (file) => loadArchive(file, bench.services, bench.options))
  if (loaded === undefined) throw new Error('nothing was loaded')
  image = loaded
  archives.docker = await save('docker')
  archives.oci = await save('oci')
})

afterAll(async () => {
  if (!isRoot) return
  rmSync(work, { recursive: true, force: true })
  await bench[Symbol.asyncDispose]()
})

describe.skipIf(!isRoot)('archives', () => {
  describe('skopeo', () => {
    test.each(['docker', 'oci'] as const)('copies our %s archive both ways', async (format) => {
      const source =
        format === 'docker'
          ? `docker-archive:${archives.docker}:${name}`
          : `oci-archive:${archives.oci}:${name}`
      const raw = JSON.parse(run('skopeo', 'inspect', '--config', source))
      expect(raw.rootfs.diff_ids).toEqual(image.record.config.rootfs.diff_ids)
      for (const target of ['docker-archive', 'oci-archive']) {
        const path = join(work, `skopeo-${format}-${target}.tar`)
        run('skopeo', '--insecure-policy', 'copy', source, `${target}:${path}:${name}`)
        await expectSameLayers(path)
      }
    })

    test('keeps the image ID of our docker archive', async () => {
      const path = join(work, 'skopeo-id.tar')
      run(
        'skopeo',
        '--insecure-policy',
        'copy',
        `docker-archive:${archives.docker}`,
        `docker-archive:${path}:${name}`,
      )
      expect((await load(path))[0]).toMatchObject({ id: image.id, names: [name] })
    })
  })

  describe('podman', () => {
    const podman = (...args: readonly string[]): string =>
      run(
        ...withOwnEtc(work, [
          ...['podman', '--root', join(work, 'podman'), '--runroot', join(work, 'podman-run')],
          ...['--storage-driver=vfs', ...args],
        ]),
      )

    test.each(['docker', 'oci'] as const)('loads our %s archive and saves it again', async (format) => {
      podman('load', '-q', '-i', archives[format])
      const layers = JSON.parse(podman('image', 'inspect', name))[0].RootFS.Layers
      expect(layers).toEqual(image.record.config.rootfs.diff_ids)
      for (const target of ['docker-archive', 'oci-archive']) {
        const path = join(work, `podman-${format}-${target}.tar`)
        podman('save', '-q', '--format', target, '-o', path, name)
        await expectSameLayers(path)
      }
      podman('rmi', '-f', name)
    })
  })

  describe('buildah', () => {
    const buildah = (...args: readonly string[]): string =>
      run(
        ...withOwnEtc(work, [
          ...['buildah', '--root', join(work, 'buildah'), '--runroot', join(work, 'buildah-run')],
          ...['--storage-driver=vfs', ...args],
        ]),
      )

    test.each(['docker', 'oci'] as const)('pulls our %s archive and pushes it again', async (format) => {
      const id = buildah('pull', '-q', '--policy=always', `${format}-archive:${archives[format]}`).trim()
      for (const target of ['docker-archive', 'oci-archive']) {
        const path = join(work, `buildah-${format}-${target}.tar`)
        buildah('push', '-q', id, `${target}:${path}:${name}`)
        await expectSameLayers(path)
      }
      buildah('rmi', '-f', id)
    })
  })

  test('umoci unpacks our OCI layout, and the layout it has tagged loads', async () => {
    const layout = join(work, 'layout')
    mkdirSync(layout)
    run('tar', '-C', layout, '-xf', archives.oci)
    run('umoci', 'tag', '--image', `${layout}:${name}`, 'plain')
    run('umoci', 'unpack', '--image', `${layout}:plain`, join(work, 'bundle'))
    const rootfs = join(work, 'bundle', 'rootfs')
    expect(readFileSync(join(rootfs, 'etc/three'), 'utf8')).toBe('three\n')
    expect(existsSync(join(rootfs, 'etc/one'))).toBe(false)
    expect(run('stat', '-c', '%a %h', join(rootfs, 'bin/busybox')).trim()).toBe('4755 2')
    const path = join(work, 'umoci.tar')
    run('tar', '-C', layout, '-cf', path, '.')
    const ids = (await load(path)).map((loaded) => loaded.id)
    expect(new Set(ids)).toEqual(new Set([image.id]))
  })

  describe('dockerd', () => {
    let daemon: ChildProcess
    let home: string
    const docker = (...args: readonly string[]): string => run('docker', '-H', `unix://${home}/sock`, ...args)

    beforeAll(async () => {
      // A socket path has room for little more than 100 bytes.
      home = mkdtempSync(join(tmpdir(), 'dkr-'))
      const args = ['--data-root', `${home}/data`, '--exec-root', `${home}/exec`, '--pidfile', `${home}/pid`]
      const net = ['--bridge=none', '--iptables=false', '--ip6tables=false', '--storage-driver=vfs']
      const dockerd = ['dockerd', ...args, ...net, '-H', `unix://${home}/sock`]
      const [command = '', ...rest] = withOwnEtc(home, dockerd)
      daemon = spawn(command, rest, { stdio: 'ignore' })
      const version = (): number | null =>
        spawnSync('docker', ['-H', `unix://${home}/sock`, 'version']).status
      for (let i = 0; i < 240 && (!existsSync(`${home}/sock`) || version() !== 0); i++) await sleep(250)
    })

    afterAll(async () => {
      const ended = once(daemon, 'exit')
      daemon.kill('SIGTERM')
      await ended
      unmountBelow(home)
      rmSync(home, { recursive: true, force: true })
    })

    test('loads our docker archive and saves it again', async () => {
      expect(docker('load', '-i', archives.docker)).toContain(name)
      const [inspected] = JSON.parse(docker('image', 'inspect', name))
      expect(inspected.RootFS.Layers).toEqual(image.record.config.rootfs.diff_ids)
      expect(inspected.Id).toBe(`sha256:${image.id}`)
      const path = join(work, 'dockerd.tar')
      docker('save', '-o', path, name)
      await expectSameLayers(path)
      expect((await load(path))[0]).toMatchObject({ id: image.id, names: [name] })
    })
  })

  test('an imported root file system is an image for skopeo', async () => {
    const tar = join(work, 'rootfs.tar.xz')
    run('tar', '-C', '/usr/share', '-cJf', tar, 'base-files')
    const fd = openSync(tar, 'r')
    const input = { fd, path: tar, name: 'localhost/imported:1' }
    const imported = await importRootfs(input, bench.services, bench.options)
    closeSync(fd)
    const path = join(work, 'imported.tar')
    const out = openSync(path, 'wx')
    const images = [{ record: imported.record, names: imported.names }]
    await saveArchive({ images, format: 'docker', fd: out }, bench.services, bench.options)
    closeSync(out)
    const config = JSON.parse(run('skopeo', 'inspect', '--config', `docker-archive:${path}`))
    expect(config.history).toEqual([expect.objectContaining({ comment: 'imported from tarball' })])
  })
})
