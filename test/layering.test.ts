import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { expect, test } from 'vitest'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const effects = [
  'storage',
  'layer',
  'runtime',
  'remote',
  'registry',
  'export',
  'history',
  'observe',
  'identity',
  'context',
  'config',
]
/** `from → to` pairs of effect folders that may be imported all the same. */
const exceptions = ['export → layer']
const pureBuiltins = ['node:crypto', 'node:path/posix']

interface Source {
  /** Relative to the repository, e.g. `packages/shared/src/oci/digest.ts`. */
  readonly path: string
  readonly text: string
  readonly imports: readonly string[]
}

function sources(): readonly Source[] {
  return ['shared', 'client', 'builder-daemon'].flatMap((name) => {
    const directory = join(root, 'packages', name, 'src')
    return readdirSync(directory, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => {
        const path = join(directory, file)
        const text = readFileSync(path, 'utf8')
        const imports = ts.preProcessFile(text).importedFiles.map(({ fileName }) => resolve(path, fileName))
        return { path: relative(root, path), text, imports }
      })
  })
}

/** Workspace imports become repository paths of sources; others stay as written. */
function resolve(importer: string, name: string): string {
  const shared = /^@isula-build\/shared\/(.*)\.js$/.exec(name)
  if (shared) return `packages/shared/src/${shared[1]}.ts`
  if (name.startsWith('.')) return relative(root, join(dirname(importer), name)).replace(/\.js$/, '.ts')
  return name
}

const all = sources()
const code = all.filter(({ path }) => !path.endsWith('.test.ts'))
const daemon = 'packages/builder-daemon/src/'

function folder(path: string): string | undefined {
  return path.startsWith(daemon) ? path.slice(daemon.length).split('/')[0] : undefined
}

function isPure(path: string): boolean {
  if (path.startsWith('packages/shared/src/')) return !path.startsWith('packages/shared/src/rpc/')
  return path.startsWith(`${daemon}core/`)
}

function violations(check: (source: Source) => readonly string[]): readonly string[] {
  return code.flatMap((source) => check(source).map((reason) => `${source.path}: ${reason}`))
}

test('packages depend on shared only', () => {
  const found = violations(({ path, imports }) => {
    const own = path.split('/').slice(0, 2).join('/')
    return imports.filter(
      (name) =>
        name.startsWith('packages/') && !name.startsWith(`${own}/`) && !name.startsWith('packages/shared/'),
    )
  })
  expect(found).toEqual([])
})

test('pure zones do nothing but compute', () => {
  const found = violations(({ path, text, imports }) => {
    if (!isPure(path)) return []
    const builtins = imports.filter((name) => name.startsWith('node:') && !pureBuiltins.includes(name))
    const calls = /\bDate\.now\(|\bMath\.random\(|\bprocess\.|\bsetTimeout\(|\bsetInterval\(/.exec(text)
    return calls === null ? builtins : [...builtins, calls[0]]
  })
  expect(found).toEqual([])
})

test('core knows shared and ports, ports know types', () => {
  const found = violations(({ path, imports }) => {
    const zone = folder(path)
    if (zone !== 'core' && zone !== 'ports') return []
    return imports.filter((name) => {
      const target = folder(name)
      return target !== undefined && target !== 'core' && target !== 'ports'
    })
  })
  expect(found).toEqual([])
})

test('effect folders do not import one another', () => {
  const found = violations(({ path, imports }) => {
    const zone = folder(path) ?? ''
    if (!effects.includes(zone)) return []
    return imports.filter((name) => {
      const target = folder(name) ?? ''
      return effects.includes(target) && target !== zone && !exceptions.includes(`${zone} → ${target}`)
    })
  })
  expect(found).toEqual([])
})

test('only compose.ts, its parts and worker entries wire effects together', () => {
  const found = violations(({ path, imports }) => {
    const zone = folder(path)
    if (zone === undefined || zone === 'workers' || zone === 'compose' || /^(main|compose)\.ts$/.test(zone))
      return []
    const used = new Set(imports.map((name) => folder(name) ?? '').filter((name) => effects.includes(name)))
    used.delete(zone)
    return used.size > 1 ? [`imports from ${[...used].join(', ')}`] : []
  })
  expect(found).toEqual([])
})

test('gRPC stays at the edges', () => {
  const found = violations(({ path, imports }) => {
    if (path.startsWith(`${daemon}rpc/`)) return []
    return imports.filter((name) => name.startsWith('@grpc/'))
  })
  expect(found).toEqual([])
})

test('no import cycles', () => {
  const graph = new Map(code.map(({ path, text, imports }) => [path, valueImports(path, text, imports)]))
  const done = new Set<string>()
  const cycles: string[] = []
  const visit = (path: string, trail: readonly string[]): void => {
    const seen = trail.indexOf(path)
    if (seen !== -1) {
      cycles.push([...trail.slice(seen), path].join(' → '))
      return
    }
    if (done.has(path)) return
    for (const next of graph.get(path) ?? []) visit(next, [...trail, path])
    done.add(path)
  }
  for (const path of graph.keys()) visit(path, [])
  expect(cycles).toEqual([])
})

/** Imports of types alone vanish when compiled and cannot form a cycle at run time. */
function valueImports(path: string, text: string, imports: readonly string[]): readonly string[] {
  const types = new Set(
    [...text.matchAll(/import type [^;]*? from '([^']+)'/g)].map((match) =>
      resolve(join(root, path), match[1] ?? ''),
    ),
  )
  return imports.filter((name) => !types.has(name))
}

test('no default exports, no barrels, no file over 400 lines', () => {
  const found = violations(({ path, text }) => [
    ...(/^export default /m.test(text) ? ['default export'] : []),
    ...(/\/index\.ts$/.test(path) ? ['barrel file'] : []),
    ...(text.split('\n').length > 401 ? [`${text.split('\n').length} lines`] : []),
  ])
  expect(found).toEqual([])
})

test('package-lock.json asks for what the packages ask for', () => {
  const json = (path: string) => JSON.parse(readFileSync(join(root, path), 'utf8'))
  const lock = json('package-lock.json').packages
  for (const path of ['', ...readdirSync(join(root, 'packages')).map((name) => `packages/${name}`)]) {
    for (const kind of ['dependencies', 'devDependencies', 'optionalDependencies']) {
      expect(lock[path][kind], `${kind} of ${path}`).toEqual(json(join(path, 'package.json'))[kind])
    }
  }
})
