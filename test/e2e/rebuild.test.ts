import { execFileSync } from 'node:child_process'
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDaemonBench, type DaemonBench } from '../support/daemon-bench.js'

const files = 300

describe.skipIf(getuid?.() !== 0)('a build of a context that changes a little', () => {
  let bench: DaemonBench
  let context: string
  beforeAll(async () => {
    bench = await createDaemonBench({ group: 'root' })
    context = bench.context('FROM scratch\nCOPY tree /app\n')
    for (let index = 0; index < files; index += 1) {
      const directory = join(context, 'tree', String(index % 9))
      mkdirSync(directory, { recursive: true })
      writeFileSync(join(directory, `f${index}`), `file ${index}`)
    }
    // So that what stat tells of it is believed.
    await sleep(3000)
  })
  afterAll(() => bench[Symbol.asyncDispose]())

  const path = (index: number) => `${index % 9}/f${index}`
  const edit = (index: number, text: string) => writeFileSync(join(context, 'tree', path(index)), text)
  const build = (tag: string) => bench.image('build', '--tag', tag, context)

  /** Saves the image, which checks its layer, and gives what a file of it holds. */
  async function saved(tag: string, index: number): Promise<string> {
    const archive = join(bench.work, 'saved.tar')
    const unpacked = join(bench.work, 'unpacked')
    rmSync(archive, { force: true })
    mkdirSync(unpacked, { recursive: true })
    await bench.image('save', '-f', 'docker', tag, '-o', archive)
    execFileSync('tar', ['-C', unpacked, '-xf', archive])
    const [{ Layers: layers }] = JSON.parse(readFileSync(join(unpacked, 'manifest.json'), 'utf8'))
    const listed = execFileSync('tar', ['-tvf', join(unpacked, layers[0])], { encoding: 'utf8' })
    expect(listed).not.toContain(' link to ')
    expect(listed.split('\n').filter((line) => line.startsWith('-'))).toHaveLength(files)
    const content = execFileSync('tar', ['-xOf', join(unpacked, layers[0]), `app/${path(index)}`])
    rmSync(unpacked, { recursive: true })
    return content.toString()
  }

  function linkedFiles(): number {
    const layers = join(bench.data, 'layers')
    return readdirSync(layers).filter((id) => {
      try {
        return lstatSync(join(layers, id, 'diff/app', path(7))).nlink > 1
      } catch {
        return false
      }
    }).length
  }

  test('shares its files, and each image is whole without the other', async () => {
    await build('one:1')
    edit(5, 'changed')
    await build('two:1')
    expect(linkedFiles()).toBe(2)
    expect(await saved('one:1', 5)).toBe('file 5')
    expect(await saved('two:1', 5)).toBe('changed')
    await bench.image('rm', 'one:1')
    await bench.prune()
    expect(await saved('two:1', 7)).toBe('file 7')
    await bench.expectSound()
  })

  test('gives what is there, wherever the daemon was killed before', async () => {
    await build('killed:1')
    for (let round = 0; round < 8; round += 1) {
      edit(11, `round ${round}`)
      const { ended } = bench.client(['ctr-img', 'build', '--tag', 'killed:1', context])
      await sleep(120 + 40 * round)
      await bench.kill()
      await ended
      await bench.restart()
      if (round % 2 === 0) edit(12, `again ${round}`)
      await build('killed:2')
      expect(await saved('killed:2', 11)).toBe(`round ${round}`)
      expect(await saved('killed:2', 12)).toBe(round % 2 === 0 ? `again ${round}` : `again ${round - 1}`)
    }
    await bench.expectSound()
  })

  test('is the same image when nothing changed, also under a name that went, and another one when told to', async () => {
    const dockerfile = 'FROM base:1\nRUN echo same > /same\nLABEL kind=one\n'
    const same = bench.context(dockerfile)
    const id = (...args: readonly string[]) => bench.image('build', '-q', ...args, same)
    const first = await id('-t', 'same:1')
    expect(await id('-t', 'same:1')).toBe(first)
    expect(await id()).toBe(first)
    await bench.image('tag', 'base:1', 'same:1')
    expect(await id('-t', 'same:1', '-t', 'same:2')).toBe(first)
    expect((await bench.images()).find((image) => image.id === first.trim())?.names.toSorted()).toEqual([
      'same:1',
      'same:2',
    ])
    const others = [await id('--no-cache'), await id('--label', 'kind=two'), await id('--env', 'A=b')]
    expect(new Set([first, ...others]).size).toBe(4)
    await bench.image('rm', first.trim())
    expect(others.concat(first)).not.toContain(await id())
    await bench.expectSound()
  })
})
