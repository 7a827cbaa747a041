import { execFileSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterEach, describe, expect, test } from 'vitest'
import { createDaemonBench, type DaemonBench, eventually } from '../support/daemon-bench.js'
import { canMountLoop, type LoopImage, mountLoopImage } from '../support/loop-image.js'

const cleanups: (() => void | PromiseLike<void>)[] = []
const mebibyte = 1024 * 1024

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function setUp(mebibytes: number, inodes?: number): Promise<{ bench: DaemonBench; disk: LoopImage }> {
  const disk = mountLoopImage(mebibytes, inodes)
  cleanups.push(() => disk.remove())
  const bench = await createDaemonBench({ dataRoot: join(disk.mountPoint, 'data') })
  cleanups.push(() => bench[Symbol.asyncDispose]())
  return { bench, disk }
}

function free(disk: LoopImage): { readonly bytes: number; readonly inodes: number } {
  const { bavail, bsize, ffree } = statfsSync(disk.mountPoint)
  return { bytes: bavail * bsize, inodes: ffree }
}

/** Takes everything that is free; gives it back when called. */
function fill(disk: LoopImage): () => void {
  const path = join(disk.mountPoint, 'filler')
  const fd = openSync(path, 'w')
  try {
    for (const size of [mebibyte, 4096]) {
      try {
        for (;;) writeSync(fd, Buffer.alloc(size, 1))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      }
    }
  } finally {
    closeSync(fd)
  }
  return () => rmSync(path)
}

/** The command fails for want of space and says so; the daemon that answers afterwards is the same. */
async function expectNoSpace(bench: DaemonBench, ...args: readonly string[]): Promise<void> {
  const pid = bench.daemon.child?.pid
  const { status, stderr } = await bench.client(['ctr-img', ...args]).ended
  expect(stderr).toMatch(/no space left/i)
  expect(stderr).toContain('rm -p')
  expect(status).toBe(1)
  expect(bench.daemon.child?.exitCode).toBeNull()
  expect(bench.daemon.child?.pid).toBe(pid)
  expect((await bench.images()).flatMap(({ names }) => names)).toContain('base:1')
}

function tree(bench: DaemonBench, name: string, files: number, mebibytes: number): string {
  const directory = join(bench.work, name)
  mkdirSync(directory)
  for (let index = 0; index < files; index++) writeFileSync(join(directory, `f${index}`), `${index}`)
  writeFileSync(join(directory, 'big'), Buffer.alloc(mebibytes * mebibyte, 7))
  const tar = `${directory}.tar`
  execFileSync('tar', ['-C', directory, '-cf', tar, '.'])
  return tar
}

/** What failed is thrown away within seconds, to within 1 MiB. */
async function expectSpaceBack(
  disk: LoopImage,
  before: { readonly bytes: number; readonly inodes: number },
): Promise<void> {
  const lost = () => ({
    bytes: before.bytes - free(disk).bytes,
    inodes: before.inodes - free(disk).inodes,
  })
  const isBack = (left: ReturnType<typeof lost>) => left.bytes <= mebibyte && left.inodes <= 16
  const left = await eventually(lost, isBack)
  expect(isBack(left), JSON.stringify(left)).toBe(true)
}

async function expectWorks(bench: DaemonBench): Promise<void> {
  const context = bench.context('FROM base:1\nCOPY Dockerfile /d\nRUN echo works > /works\n')
  await bench.image('build', '--no-cache', '-t', 'works:1', context)
  await bench.image('rm', 'works:1')
  await bench.prune()
  await bench.expectSound()
}

describe.skipIf(getuid?.() !== 0 || !canMountLoop())(
  'a daemon on a small disk (needs root and loop devices)',
  () => {
    test.each([
      ['48 MiB', 48, undefined, 2, 64],
      ['few inodes', 64, 600, 900, 1],
    ] as const)(
      'says that there is no space and goes on, with %s',
      async (_name, size, inodes, files, mebibytes) => {
        const { bench, disk } = await setUp(size, inodes)
        const tar = tree(bench, 'tree', files, mebibytes)
        const context = bench.context('FROM base:1\nADD tree.tar /\n')
        execFileSync('cp', [tar, context])
        const copying = bench.context('FROM base:1\nCOPY tree /tree\n')
        execFileSync('cp', ['-r', join(bench.work, 'tree'), copying])
        await expectWorks(bench)
        const before = free(disk)

        await expectNoSpace(bench, 'import', tar, 'full:1')
        await expectSpaceBack(disk, before)
        await expectNoSpace(bench, 'build', '-t', 'full:1', context)
        await expectSpaceBack(disk, before)
        await expectNoSpace(bench, 'build', '-t', 'full:1', copying)
        await expectSpaceBack(disk, before)
        const archive = join(bench.work, 'archive.tar')
        dockerArchive(bench, tar, archive)
        await expectNoSpace(bench, 'load', '-i', archive)
        await expectSpaceBack(disk, before)
        await bench.expectSound()

        const command =
          inodes === undefined
            ? 'dd if=/dev/zero of=/full bs=1M count=64'
            : 'for i in $(seq 900); do echo > /$i || exit 9; done'
        const running = bench.context(`FROM base:1\nRUN ${command}\n`)
        const { status, stdout, stderr } = await bench.client(['ctr-img', 'build', running]).ended
        expect(stdout + stderr).toMatch(/no space left on device/i)
        expect(status).not.toBe(0)
        await bench.prune()
        await expectSpaceBack(disk, before)
        await expectWorks(bench)
      },
    )

    test('fails a RUN whose output finds no space in the run root, and goes on', async () => {
      const disk = mountLoopImage(16)
      cleanups.push(() => disk.remove())
      const bench = await createDaemonBench({ runRoot: join(disk.mountPoint, 'run') })
      cleanups.push(() => bench[Symbol.asyncDispose]())
      const before = free(disk)
      await expectNoSpace(bench, 'build', bench.context('FROM base:1\nRUN yes | head -c 33554432\n'))
      await expectSpaceBack(disk, before)
      await expectWorks(bench)
    })

    test('answers and removes images while the disk is full, and builds when it no longer is', async () => {
      const { bench, disk } = await setUp(64)
      const context = bench.context('FROM base:1\nCOPY Dockerfile /d\nRUN echo full > /full\n')
      await bench.image('build', '-t', 'goner:1', context)
      const empty = fill(disk)
      await expectNoSpace(bench, 'build', '--no-cache', '-t', 'full:1', context)
      await bench.kill()
      await bench.restart()
      expect(await bench.image('images')).toContain('goner')
      await bench.image('rm', 'goner:1')
      expect((await bench.images()).flatMap(({ names }) => names)).toEqual(['base:1'])
      empty()
      await expectWorks(bench)
      expect(readFileSync(bench.daemon.log, 'utf8')).not.toContain('uncaught-exception')
    })
  },
)

/** A docker archive of one image with this layer, as `load` takes it. */
function dockerArchive(bench: DaemonBench, layer: string, path: string): void {
  const directory = join(bench.work, 'archive')
  mkdirSync(directory)
  execFileSync('cp', [layer, join(directory, 'layer.tar')])
  const [digest] = execFileSync('sha256sum', [layer], { encoding: 'utf8' }).split(' ')
  const config = {
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  }
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config))
  const manifest = [{ Config: 'config.json', RepoTags: ['full:1'], Layers: ['layer.tar'] }]
  writeFileSync(join(directory, 'manifest.json'), JSON.stringify(manifest))
  execFileSync('tar', ['-C', directory, '-cf', path, 'manifest.json', 'config.json', 'layer.tar'])
}
