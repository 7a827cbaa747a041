import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { lremovexattr, lsetxattr } from '../../packages/builder-daemon/src/system/extended-attributes.js'
import type { Random } from './random-choices.js'

/** A build context that changes at random; paths are latin1 bytes below it. */
export interface RandomTree {
  /** Changes one thing; says what. */
  edit(): string
}

interface Item {
  readonly path: string
  readonly kind: 'file' | 'directory' | 'other'
}

const directories = ['src', 'src/sub', 'src/sub/deep', 'conf', 'data', 'data/sub']
/** Always there, so that few patterns match nothing. */
const kept = ['src/keep.c', 'src/keep.txt', 'src/sub/keep.txt', 'conf/keep.txt', 'data/sub/keep.c']
const names = [
  'a.txt',
  'b.txt',
  'c.c',
  'd.c',
  'main',
  '.hidden',
  'sp ace.txt',
  '\xc3\xbc.txt',
  '\xff.c',
  'x.tmp',
]
const ignored = [
  '*.tmp',
  'src/sub',
  '**/*.c\n!**/keep.c',
  'conf/b*',
  'data/**/x*',
  '.hidden',
  '**/sub/deep',
  '#',
  'Dockerfile',
]
const modes = [0o644, 0o600, 0o755, 0o4755, 0o444, 0o640]

/** Fills `root`, which is empty and has an ASCII name. */
export function createRandomTree(root: string, random: Random): RandomTree {
  const at = (path: string): Buffer => Buffer.from(`${root}/${path}`, 'latin1')
  const exists = (path: string): boolean => lstatSync(at(path), { throwIfNoEntry: false }) !== undefined

  function items(): readonly Item[] {
    const found: Item[] = []
    const visit = (below: string): void => {
      for (const entry of readdirSync(at(below), { withFileTypes: true, encoding: 'buffer' })) {
        const path = `${below === '' ? '' : `${below}/`}${entry.name.toString('latin1')}`
        const kind = entry.isDirectory() ? 'directory' : entry.isFile() ? 'file' : 'other'
        found.push({ path, kind })
        if (kind === 'directory') visit(path)
      }
    }
    visit('')
    return found
      .filter(({ path }) => path !== '.dockerignore' && path !== 'Dockerfile')
      .sort((a, b) => (a.path < b.path ? -1 : 1))
  }
  const isKept = (path: string): boolean => kept.some((one) => one === path || one.startsWith(`${path}/`))
  const anyOf = (kind: Item['kind'] | undefined, free: boolean): string | undefined => {
    const fit = items().filter(
      (item) => (kind === undefined || item.kind === kind) && !(free && isKept(item.path)),
    )
    return fit.length === 0 ? undefined : random.pick(fit).path
  }
  const newPath = (): string => {
    const place = random.pick(items().filter(({ kind }) => kind === 'directory')).path
    return `${place}/${random.pick(names)}`
  }
  function content(size: number): Buffer {
    const block = Buffer.alloc(Math.min(size, 64))
    for (let i = 0; i < block.length; i++) block[i] = 32 + random.next(90)
    return Buffer.alloc(size, block)
  }
  const someSize = (): number => random.pick([0, 1, 10, 100, 4095, 4096, 5000, 70_000, 300_000])
  function keepingTime(path: string, change: () => void): void {
    const { atimeNs, mtimeNs } = lstatSync(at(path), { bigint: true })
    change()
    setTime(path, atimeNs, mtimeNs)
  }
  function setTime(path: string, atimeNs: bigint, mtimeNs: bigint): void {
    // Seconds as a number are exact to the microsecond only.
    const seconds = (time: bigint): string =>
      `${time / 1_000_000_000n}.${String(time % 1_000_000_000n).padStart(9, '0')}`
    lutimesSync(at(path), Number(seconds(atimeNs)), Number(seconds(mtimeNs)))
  }
  function clear(path: string): boolean {
    if (isKept(path)) return false
    rmSync(at(path), { recursive: true, force: true })
    return true
  }
  function otherBytes(path: string): void {
    const old = readFileSync(at(path))
    if (old.length === 0) return
    const place = random.next(old.length)
    old[place] = ((old[place] ?? 0) + 1) % 256
    writeFileSync(at(path), old)
  }

  type Edit = readonly [
    name: string,
    apply: (path: string, other: string) => void,
    of: Item['kind'] | undefined,
    free: boolean,
  ]
  const edits: readonly Edit[] = [
    ['writes', (path) => writeFileSync(at(path), content(someSize())), 'file', false],
    ['changes one byte of', otherBytes, 'file', false],
    [
      'changes one byte, not the time, of',
      (path) => keepingTime(path, () => otherBytes(path)),
      'file',
      false,
    ],
    [
      'appends to',
      (path) => writeFileSync(at(path), content(1 + random.next(50)), { flag: 'a' }),
      'file',
      false,
    ],
    [
      'makes a file like',
      (_, other) => void (clear(other) && writeFileSync(at(other), content(someSize()))),
      undefined,
      false,
    ],
    ['removes', (path) => rmSync(at(path), { recursive: true }), undefined, true],
    ['removes the file', (path) => rmSync(at(path)), 'file', true],
    [
      'moves',
      (path, other) =>
        void (!exists(other) && !other.startsWith(`${path}/`) && renameSync(at(path), at(other))),
      undefined,
      true,
    ],
    [
      'moves over another',
      (path, other) => void (path !== other && clear(other) && renameSync(at(path), at(other))),
      'file',
      true,
    ],
    ['swaps', (path) => swap(path), 'file', false],
    ['touches', (path) => lutimesSync(at(path), Date.now() / 1000, Date.now() / 1000), undefined, false],
    [
      'dates back',
      (path) => lutimesSync(at(path), 1e9 + random.next(1e8), 1e9 + random.next(1e8)),
      undefined,
      false,
    ],
    ['changes the mode of', (path) => chmodSync(at(path), random.pick(modes)), 'file', false],
    [
      'changes the mode of the directory',
      (path) => chmodSync(at(path), random.pick([0o755, 0o700, 0o2775, 0o1777])),
      'directory',
      false,
    ],
    [
      'changes the owner of',
      (path) => lchownSync(at(path), random.next(3), random.next(3)),
      undefined,
      false,
    ],
    [
      'links to',
      (path, other) =>
        void (
          clear(other) &&
          symlinkSync(random.pick([path, `/${path}`, '../src', 'keep.txt', 'none', '.']), at(other))
        ),
      undefined,
      false,
    ],
    [
      'makes a hard link to',
      (path, other) => void (path !== other && clear(other) && linkSync(at(path), at(other))),
      'file',
      false,
    ],
    ['breaks the hard link', (path) => rewrite(path, false), 'file', false],
    ['writes anew, other bytes, same time,', (path) => rewrite(path, true), 'file', false],
    [
      'makes a directory of',
      (path) => {
        clear(path)
        mkdirSync(at(path))
        writeFileSync(at(`${path}/a.txt`), content(9))
      },
      'file',
      true,
    ],
    [
      'makes a file of',
      (path) => {
        clear(path)
        writeFileSync(at(path), content(20))
      },
      'directory',
      true,
    ],
    ['makes a directory', (_, other) => void (!exists(other) && mkdirSync(at(other))), undefined, false],
    [
      'names something of',
      (path) => lsetxattr(at(path).toString('latin1'), 'user.note', content(random.next(9))),
      'file',
      false,
    ],
    ['unnames', (path) => unname(path), 'file', false],
    [
      'ignores other than',
      () => writeFileSync(at('.dockerignore'), [random.pick(ignored), random.pick(ignored)].join('\n')),
      undefined,
      false,
    ],
    ['packs', () => pack(), undefined, false],
  ]

  function swap(path: string): void {
    const other = anyOf('file', false) ?? path
    if (other === path) return
    renameSync(at(path), at('swapping'))
    renameSync(at(other), at(path))
    renameSync(at('swapping'), at(other))
  }
  function rewrite(path: string, isOther: boolean): void {
    const stat = lstatSync(at(path), { bigint: true })
    writeFileSync(at('writing'), readFileSync(at(path)))
    if (isOther) otherBytes('writing')
    chmodSync(at('writing'), Number(stat.mode) & 0o7777)
    setTime('writing', stat.atimeNs, stat.mtimeNs)
    renameSync(at('writing'), at(path))
  }
  function unname(path: string): void {
    try {
      lremovexattr(at(path).toString('latin1'), 'user.note')
    } catch (error) {
      if (!(error instanceof Error) || !/ENODATA|61/.test(error.message)) throw error
    }
  }
  function pack(): void {
    clear('data.tar')
    const format = random.pick(['ustar', 'pax', 'gnu'])
    execFileSync('tar', ['-C', root, `--format=${format}`, '-cf', `${root}/data.tar`, 'conf'])
  }

  for (const path of directories) mkdirSync(at(path))
  for (const path of kept) writeFileSync(at(path), content(10 + random.next(30)))
  for (const directory of directories) {
    for (let i = 0; i < 3; i++) writeFileSync(at(`${directory}/${random.pick(names)}`), content(someSize()))
  }
  pack()

  return {
    edit() {
      const [name, apply, kind, free] = random.pick(edits)
      const path = anyOf(kind, free)
      const other = newPath()
      if (path === undefined) return 'nothing'
      apply(path, other)
      return `${name} ${JSON.stringify(path)} (${JSON.stringify(other)})`
    },
  }
}
