import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { codes } from '../packages/shared/src/errors/codes.js'

const root = fileURLToPath(new URL('../', import.meta.url))
const read = (path: string): string => readFileSync(`${root}${path}`, 'utf8')

describe('docs/errors.md', () => {
  const headings = [...read('docs/errors.md').matchAll(/^## (.*)$/gm)].map((match) => match[1])

  test('has a heading for every code and no other', () => {
    expect(headings).toEqual(Object.keys(codes))
  })

  test('says what each code means', () => {
    const meanings: Readonly<Record<string, string>> = JSON.parse(read('docs/errors.json'))
    expect(Object.keys(meanings).sort()).toEqual(Object.keys(codes).sort())
    for (const [code, meaning] of Object.entries(meanings)) expect(meaning, code).toMatch(/^[A-Z].*\.$/)
  })

  test('is what scripts/errors-doc.mjs makes of the catalogue', () => {
    const made = execFileSync(process.execPath, [`${root}scripts/errors-doc.mjs`], { encoding: 'utf8' })
    expect(read('docs/errors.md')).toBe(made)
  })
})

describe('docs/config.md', () => {
  const source = read('packages/builder-daemon/src/config/daemon-config.ts')
  const text = read('docs/config.md')
  const words = new Set(text.match(/[A-Za-z_-]+/g))
  /** Every key that is read, whatever table it is in. */
  const keys = [
    ...(source + read('packages/builder-daemon/src/config/gc-settings.ts')).matchAll(
      /\.(?:string|boolean|integer|duration|size|strings|integers|tables?)\(\s*'([^']+)'/g,
    ),
    ...read('packages/builder-daemon/src/config/registries-file.ts').matchAll(
      /\b(?:one|entries|list)\((?:reader, )?'([^']+)'/g,
    ),
    ...read('packages/builder-daemon/src/config/registries-file.ts').matchAll(
      /reader\.(?:string|boolean|tables)\('([^']+)'/g,
    ),
  ].map((match) => match[1] ?? '')

  test('names every key that the daemon reads', () => {
    expect(keys.length).toBeGreaterThan(15)
    expect(keys.filter((key) => !words.has(key))).toEqual([])
  })

  test('names no key of configuration.toml that the daemon does not read', () => {
    const table = /## configuration\.toml\n([\s\S]*?)\n## /.exec(text)?.[1] ?? ''
    const listed = [...table.matchAll(/^\| (`.*?) \|/gm)].flatMap((row) =>
      [...(row[1] ?? '').matchAll(/`([^`]+)`/g)].flatMap((match) => match[1]?.split('.') ?? []),
    )
    expect(listed.length).toBeGreaterThan(8)
    expect(listed.filter((key) => !keys.includes(key))).toEqual([])
  })

  test('names every file that is read', () => {
    const files = [...source.matchAll(/'([a-z]+\.(?:toml|json))'/g)].map((match) => match[1] ?? '')
    expect(new Set(files)).toEqual(
      new Set(['configuration.toml', 'storage.toml', 'registries.toml', 'policy.json']),
    )
    for (const file of files) expect(text).toContain(file)
  })
})
