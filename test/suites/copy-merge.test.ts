import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { useCopyBench } from '../support/copy-bench.js'

const isRoot = process.getuid?.() === 0

/** Numbers that look random and are the same every time. */
function numbers(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

type Tree = Map<string, string>

describe.skipIf(!isRoot)('COPY of several trees into one (needs root)', () => {
  const bench = useCopyBench()

  /** Names of directories and of files differ, so that trees can always be merged. */
  function randomTree(next: (below: number) => number, label: string): Tree {
    const tree: Tree = new Map()
    for (let count = next(25); count > 0; count -= 1) {
      const directories = Array.from({ length: next(4) }, () => `d${next(3)}`)
      const path = [...directories, `f${next(4)}`].join('/')
      tree.set(path, next(20) === 0 ? label.repeat(200_000) : `${label} ${path}`)
    }
    return tree
  }

  function write(tree: Tree, directory: string): void {
    mkdirSync(directory, { recursive: true })
    for (const [path, content] of tree) {
      mkdirSync(join(directory, path, '..'), { recursive: true })
      writeFileSync(join(directory, path), content)
    }
  }

  function read(directory: string, prefix = ''): Tree {
    const tree: Tree = new Map()
    for (const entry of readdirSync(join(directory, prefix), { withFileTypes: true })) {
      const path = join(prefix, entry.name)
      if (entry.isDirectory()) for (const [below, content] of read(directory, path)) tree.set(below, content)
      else tree.set(path, readFileSync(join(directory, path), 'utf8'))
    }
    return tree
  }

  test('the later source wins, whatever lies below, for any trees', () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const next = numbers(seed)
      const names = ['a', 'b', 'c'].slice(0, 1 + next(3))
      const trees = names.map((name) => randomTree(next, `${seed}${name}`))
      for (const [index, name] of names.entries()) {
        const tree = trees[index]
        if (tree !== undefined) write(tree, join(bench.context, `${seed}`, name))
      }
      const lowers = next(2) === 0 ? [] : [join(bench.context, `${seed}`, 'below')]
      for (const lower of lowers) write(randomTree(next, 'below'), join(lower, 'x'))
      const file = `${seed}/${names[0]}.txt`
      bench.file(file, 'a file')

      const sources = names.map((name) => `${seed}/${name}`)
      sources.splice(next(sources.length + 1), 0, file)
      const excludes = next(3) === 0 ? ['**/f3'] : []
      const { upper } = bench.copy(sources, '/x/', { lowers, excludes })
      const written = read(join(upper, 'x'))
      const merged = new Map(trees.flatMap((tree) => [...tree]))
      for (const path of merged.keys()) if (excludes.length > 0 && path.endsWith('f3')) merged.delete(path)
      merged.set(`${names[0]}.txt`, 'a file')
      expect([...written].sort()).toEqual([...merged].sort())
    }
  })
})
