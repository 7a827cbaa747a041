import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench, readDockerArchive, tool } from '../support/client-bench.js'

let bench: ClientBench
let base: string
beforeAll(async () => {
  bench = await createClientBench()
  base = bench.ok(['images', '-q', 'base:1']).trim()
})
afterAll(() => bench[Symbol.asyncDispose]())

let work: string
let count = 0
/** Every test begins with the base image alone. */
beforeEach(() => {
  work = join(bench.work, `test-${count++}`)
  mkdirSync(work)
  const others = bench
    .ok(['images', '-q'])
    .trim()
    .split('\n')
    .filter((id) => id !== base)
  if (others.length > 0) bench.ok(['rm', ...others])
})

/** Builds an image with a layer of its own; gives its ID. */
function build(name: string, text = `RUN echo ${name} > /mark`): string {
  const names = name === '' ? [] : ['-t', name]
  return bench.ok(['build', '-q', ...names, '-f', '-', work], { input: `FROM base:1\n${text}\n` }).trim()
}

const rows = (...args: readonly string[]): readonly (readonly string[])[] =>
  bench
    .ok(['images', ...args])
    .split('\n')
    .slice(3, -2)
    .map((row) => row.trim().split(/ {2,}/))

describe('images', () => {
  test('lists one row per name, newest first, in the table of the original', () => {
    const id = build('listed:1')
    bench.ok(['tag', 'listed:1', 'another'])
    const text = bench.ok(['images'], { env: { TZ: 'UTC' } })
    const [rule, header] = text.split('\n')
    expect(header).toMatch(/^ REPOSITORY +TAG +IMAGE ID +CREATED +SIZE +$/)
    expect(rule).toMatch(/^-+( {2}-+){4}$/)
    expect(rows().map(([repository, tag, short]) => [repository, tag, short])).toEqual([
      ['another', 'latest', id.slice(0, 12)],
      ['listed', '1', id.slice(0, 12)],
      ['base', '1', base.slice(0, 12)],
    ])
    const [, , , created = '', size = ''] = rows('listed:1')[0] ?? []
    expect(created).toMatch(/^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$/)
    expect(size).toMatch(/^\d(\.\d{1,2})? MB$/)
    expect(bench.ok(['images', '-q']).trim().split('\n')).toEqual([id, base])
  })

  test('shows local time', () => {
    build('', 'ENV A=1')
    const [utc, east] = ['UTC', 'Etc/GMT-5'].map((TZ) =>
      bench.ok(['images'], { env: { TZ } }).split('\n')[3]?.slice(54, 73),
    )
    expect(Date.parse(`${east}Z`) - Date.parse(`${utc}Z`)).toBe(5 * 3_600_000)
  })

  test('filters by name, repository and ID prefix', () => {
    const id = build('one:1')
    build('one:2')
    bench.ok(['tag', 'one:1', 'two'])
    expect(rows('one').map(([, tag]) => tag)).toEqual(['2', '1'])
    expect(rows('one:2').map(([, tag]) => tag)).toEqual(['2'])
    expect(rows('two:latest')).toHaveLength(1)
    expect(rows(id.slice(0, 6)).map(([repository]) => repository)).toEqual(['one', 'two'])
    expect(rows(id)).toHaveLength(2)
  })

  test.each([
    ['nope', 'failed to list images with repository "nope" in local storage'],
    ['base:2', 'find local image "base:2" failed: image "base:2" not found in local store'],
  ])('%s is not there', (filter, message) => {
    const { status, stdout, stderr } = bench.run(['images', filter])
    expect([status, stdout, stderr.split('\n')[0]]).toEqual([1, '', message])
  })

  test('takes one filter at most', () => {
    const { status, stderr } = bench.run(['images', 'a', 'b'])
    expect([status, stderr.trim()]).toEqual([1, 'isula-build images requires at most one argument'])
  })

  test('of an empty store', () => {
    bench.ok(['rm', '-a'])
    expect(bench.ok(['images'])).toBe(
      '-----------   ----   ---------   --------\nREPOSITORY    TAG    IMAGE ID    CREATED\n-----------   ----   ---------   --------\n',
    )
    expect(bench.ok(['images', '-q'])).toBe('')
    bench.ok(['import', bench.baseTar, 'base:1'])
    base = bench.ok(['images', '-q', 'base:1']).trim()
  })
})

describe('tag', () => {
  test('adds a name, moves it, and says so', () => {
    const first = build('first')
    const second = build('second')
    expect(bench.ok(['tag', 'first', 'name'])).toBe('Tag name to image first succeed\n')
    expect(bench.ok(['images', '-q', 'name'])).toBe(`${first}\n`)
    bench.ok(['tag', second.slice(0, 10), 'name:latest'])
    expect(bench.ok(['images', '-q', 'name'])).toBe(`${second}\n`)
  })

  test.each([
    [['tag', 'base:1'], 'invalid args for tag command'],
    [['tag', 'a', 'b', 'c'], 'invalid args for tag command'],
    [['tag', 'nope', 'x'], 'image "nope" not found in local store'],
    [['tag', 'base:1', 'UPPER'], ''],
    [['tag', 'base:1', `a@sha256:${'0'.repeat(64)}`], ''],
  ])('%j fails without saying that it succeeded', (args, message) => {
    const { status, stdout, stderr } = bench.run(args)
    expect([status, stdout]).toEqual([1, ''])
    expect(stderr).toContain(message)
  })
})

describe('rm', () => {
  test('takes a name away while there are others, then the image', () => {
    const id = build('a')
    bench.ok(['tag', 'a', 'b:1'])
    expect(bench.ok(['rm', 'a'])).toBe('Untagged image: a:latest\n')
    const output = bench.ok(['rm', 'b:1'])
    expect(output).toMatch(/^Deleted layer: sha256:[0-9a-f]{64}\nDeleted image: b:1\n$/)
    expect(bench.ok(['images', '-q'])).not.toContain(id)
  })

  test('takes IDs and their prefixes, with all names', () => {
    const [one, two] = [build('one'), build('two')]
    bench.ok(['tag', 'one', 'uno'])
    expect(bench.ok(['rm', one, two.slice(0, 8)])).toMatch(
      new RegExp(`Deleted image: ${one}\n(.*\n)*Deleted image: ${two.slice(0, 8)}\n$`),
    )
    expect(rows().map(([name]) => name)).toEqual(['base'])
  })

  test('goes on after a failure, which stands on standard error', () => {
    build('here')
    const { status, stdout, stderr } = bench.run(['rm', 'nope', 'here', 'gone:1'])
    expect(status).toBe(1)
    expect(stdout).toMatch(/^Deleted layer: .*\nDeleted image: here\n$/)
    expect(stderr.split('\n').slice(0, 3)).toEqual([
      'Find local image "nope" failed: image "nope" not found in local store',
      'Find local image "gone:1" failed: image "gone:1" not found in local store',
      'remove one or more images failed',
    ])
  })

  test('-p removes images without a name, -a all', () => {
    const unnamed = build('')
    build('named')
    expect(bench.ok(['rm', '-p'])).toContain(`Deleted image: ${unnamed}`)
    expect(rows().map(([name]) => name)).toEqual(['named', 'base'])
    bench.ok(['rm', '--all'])
    expect(bench.ok(['images', '-q'])).toBe('')
    expect(bench.ok(['rm', '-a'])).toBe('')
    bench.ok(['import', bench.baseTar, 'base:1'])
    base = bench.ok(['images', '-q', 'base:1']).trim()
  })

  test.each([
    [['rm'], 'imageID/name must be specified'],
    [['rm', '-a', 'x'], 'imageID/name is not allowed when using --all'],
    [['rm', '-p', 'x'], 'imageID/name is not allowed when using --prune'],
    [['rm', '-a', '-p'], '--prune is not allowed when using --all'],
  ])('%j is refused', (args, message) => {
    const { status, stderr } = bench.run(args)
    expect([status, stderr.trim()]).toEqual([1, message])
  })
})

describe('import', () => {
  const programs = { gz: 'gzip', xz: 'xz', bz2: 'bzip2', zst: 'zstd' }

  test.each(['tar', 'gz', 'xz', 'bz2', 'zst'] as const)('takes a root file system as %s', (kind) => {
    const file = join(work, `root.${kind}`)
    const small = bench.context({ 'etc/mark': `${kind}\n` })
    tool('tar', ['-C', small, '-cf', join(work, 'root.plain'), '.'])
    const program = kind === 'tar' ? 'cat' : programs[kind]
    tool('sh', ['-c', `${program} < root.plain > root.${kind}`], { cwd: work })
    const output = bench.ok(['import', file, `imported:${kind}`])
    const id = bench.ok(['images', '-q', `imported:${kind}`]).trim()
    expect(output.split('\n').at(-2)).toBe(`Import success with image id: "${id}"`)
    expect(bench.file(`imported:${kind}`, '/etc/mark')).toBe(`${kind}\n`)
    const out = join(work, 'saved.tar')
    bench.ok(['save', id, '-o', out])
    const digest = tool('sha256sum', [join(work, 'root.plain')]).slice(0, 64)
    expect(readDockerArchive(out).config().rootfs.diff_ids).toEqual([`sha256:${digest}`])
  })

  test('takes standard input, and needs no name', () => {
    const output = bench.ok(['import', '-'], { input: readFileSync(bench.baseTar) })
    expect(output).toContain('Import success with image id: "')
  })

  test('refuses what it cannot take', () => {
    const empty = join(work, 'empty')
    writeFileSync(empty, '')
    const junk = join(work, 'junk')
    writeFileSync(junk, 'x'.repeat(10_000))
    const large = join(work, 'large')
    tool('truncate', ['-s', String(1024 ** 3 + 1), large])
    const failing = (...args: readonly string[]) => {
      const { status, stdout, stderr } = bench.run(['import', ...args])
      expect([status, stdout.includes('success')]).toEqual([1, false])
      return stderr.split('\n')[0]
    }
    expect(failing()).toBe('requires at least one argument and at most two')
    expect(failing('/nonexistent')).toBe('stat /nonexistent: no such file or directory')
    expect(failing(work)).toBe(`${work} is not a regular file`)
    expect(failing(empty)).toBe(`${empty} is empty`)
    expect(failing(large)).toBe(`file ${large} size is: ${1024 ** 3 + 1}, exceeds limit ${1024 ** 3}`)
    expect(failing(junk)).not.toContain('internal')
    expect(failing(bench.baseTar, 'BAD NAME')).toContain('BAD NAME')
  })
})

describe('save and load', () => {
  test.each(['docker', 'oci'])(
    'several images in one %s archive come back with their IDs and names',
    (format) => {
      const ids = [build('app:1'), build('app:2')]
      bench.ok(['tag', 'app:1', 'alias'])
      const file = join(work, 'all.tar')
      const output = bench.ok(['save', '-f', format, 'app:1', 'alias', 'app:2', '-o', file])
      expect(output.split('\n').at(-2)).toBe('Save success with image: [app:1 alias app:2]')
      bench.ok(['rm', ...ids])
      const loaded = bench.ok(['load', '-i', file])
      if (format === 'docker') {
        for (const id of ids) expect(loaded).toContain(`Loaded image as ${id}\n`)
        expect(readDockerArchive(file).manifest.map(({ RepoTags }) => RepoTags)).toEqual([
          ['app:1', 'alias:latest'],
          ['app:2'],
        ])
      }
      expect(
        rows()
          .map(([name, tag]) => `${name}:${tag}`)
          .sort(),
      ).toEqual(['alias:latest', 'app:1', 'app:2', 'base:1'])
      expect(bench.file('app:2', '/mark')).toBe('app:2\n')
    },
  )

  test('through standard output and input', () => {
    const id = build('piped')
    const saved = bench.run(['save', 'piped', '-o', '-'], { encoding: 'latin1' })
    expect([saved.status, saved.stderr]).toEqual([0, ''])
    bench.ok(['rm', id])
    expect(bench.ok(['load', '-i', '-'], { input: Buffer.from(saved.stdout, 'latin1') })).toContain(
      `Loaded image as ${id}\n`,
    )
  })

  test('by ID there is no name', () => {
    const id = build('by-id')
    const file = join(work, 'id.tar')
    bench.ok(['save', id, '-o', file])
    expect(readDockerArchive(file).manifest[0]?.RepoTags ?? []).toEqual([])
  })

  test.each([
    [['save'], 'save accepts at least one image'],
    [['save', 'base:1'], 'output path(-o) should not be empty'],
    [['save', 'base:1', '-o', 'a:b'], 'colon in path "a:b" is not supported'],
    [['save', 'base:1', '-o', 'plain'], 'output file already exist: '],
    [['save', 'base:1', '-o', '/nonexistent/x'], 'stat /nonexistent: no such file or directory'],
    [['save', 'nope', '-o', 'new.tar'], 'image "nope" not found in local store'],
    [['save', 'base:1', '-f', 'zip', '-o', 'new.tar'], 'image format '],
    [['save', 'base:1', '-o', 'x', '-b', 'base:1'], 'conflict flags between -o and [-b -l -r -d]'],
    [['save', 'base:1', '-l', 'x'], 'base image name(-b) must be provided'],
    [['save', 'base:1', '-b', 'x', '-l', 'x'], 'base and lib images are the same'],
    [['save', '0'.repeat(64), '-b', 'x'], 'using image ID "'],
    [['save', 'base:1', '-b', 'x', '-d', '.'], 'dest directory already exist: '],
    [['load'], 'check load options failed: tarball path should not be empty'],
    [['load', '-i', 'nope'], 'check load options failed: stat nope: no such file or directory'],
    [['load', '-i', '.'], 'check load options failed: . is not a regular file'],
    [['load', '-i', 'empty'], 'check load options failed: empty is empty'],
    [['load', '-i', 'plain'], 'wrong image format detected from local tarball: '],
    [['load', '-d', '.'], 'check load options failed: app image name(-i) should not be empty'],
    [
      ['load', '-b', 'x', '-i', 'y'],
      'check load options failed: image tarball directory should not be empty',
    ],
    [
      ['load', '-d', '.', '-b', 'x', '-l', 'x', '-i', 'y'],
      'check load options failed: base and lib tarballs are the same',
    ],
  ])('%j is refused', (args, message) => {
    writeFileSync(join(work, 'plain'), 'x'.repeat(2000))
    writeFileSync(join(work, 'empty'), '')
    const { status, stdout, stderr } = bench.run(args, { cwd: work })
    expect(stderr.slice(0, message.length)).toBe(message)
    expect([status, stdout]).toEqual([1, ''])
    expect(existsSync(join(work, 'new.tar'))).toBe(false)
  })
})

describe('separated images', () => {
  beforeEach(() => {
    bench.ok(['build', '-t', 'lib:1', '-f', '-', work], { input: 'FROM base:1\nRUN echo lib > /lib\n' })
    for (const app of ['app1', 'app2']) {
      const input = `FROM lib:1\nRUN echo ${app} > /app\n`
      bench.ok(['build', '-t', `example.com/${app}:1`, '-f', '-', work], { input })
    }
  })

  test('are saved with base and lib once, renamed, and load again', () => {
    const rename = join(work, 'rename.json')
    writeFileSync(rename, JSON.stringify([{ name: 'app1_1_app_image.tar.gz', rename: 'one.tar.gz' }]))
    const args = ['save', '-b', 'base:1', '-l', 'lib:1', '-r', rename, '-d', 'Out', 'example.com/app1:1']
    const output = bench.ok([...args, 'example.com/app2:1'], { cwd: work })
    expect(output.split('\n').at(-2)).toBe('Save success with image: [example.com/app1:1 example.com/app2:1]')
    const files = readdirSync(join(work, 'Out')).sort()
    expect(files).toContain('one.tar.gz')
    expect(files).toContain('manifest')
    expect(files).toHaveLength(5)
    const [baseFile = '', libFile = ''] = ['_base_image', '_lib_image'].map(
      (part) => files.find((name) => name.includes(part)) ?? '',
    )
    const before = bench.ok(['images', '-q', 'example.com/app1:1'])
    for (const name of ['example.com/app1:1', 'example.com/app2:1']) bench.ok(['rm', name])
    const loaded = bench.ok(['load', '-d', 'Out', '-i', 'example.com/app1:1'], { cwd: work })
    expect(loaded).toContain(`Loaded image as ${before}`)
    const parts = ['-b', `Out/${baseFile}`, '-l', `Out/${libFile}`]
    bench.ok(['load', '-d', 'Out', ...parts, '-i', 'example.com/app2:1'], { cwd: work })
    expect(bench.file('example.com/app2:1', '/app')).toBe('app2\n')
    expect(bench.file('example.com/app1:1', '/lib')).toBe('lib\n')
  })

  test('without a lib load too, and damage is found', () => {
    bench.ok(['build', '-t', 'plain:1', '-f', '-', work], { input: 'FROM base:1\nRUN echo plain > /app\n' })
    bench.ok(['save', '-b', 'base:1', 'plain:1'], { cwd: work })
    bench.ok(['rm', 'plain:1'])
    const directory = join(work, 'Images')
    const missing = bench.run(['load', '-d', directory, '-i', 'nope:1'])
    expect([missing.status, missing.stderr.split('\n')[0]]).toEqual([1, 'failed to find app image nope:1'])
    bench.ok(['load', '-d', directory, '-i', 'plain:1'])
    expect(bench.file('plain:1', '/app')).toBe('plain\n')
    const app = join(directory, 'plain_1_app_image.tar.gz')
    tool('sh', ['-c', 'gzip -dc < "$0" | gzip -1 > other && mv other "$0"', app], { cwd: work })
    const damaged = bench.run(['load', '-d', directory, '-i', 'plain:1'])
    expect(damaged.status).toBe(1)
    expect(damaged.stderr).toMatch(
      /^check sum for path .*plain_1_app_image\.tar\.gz failed, got [0-9a-f]{64}, want [0-9a-f]{64}/,
    )
    bench.ok(['load', '--no-check', '-d', directory, '-i', 'plain:1'])
  })
})
