import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ApplyParams, ApplyResult } from '../ports/layer-worker.js'
import { applyJob } from './apply.js'
import { writeLayerJob } from './write-layer.js'

/** For tests: tars as an attacker writes them, and layers in a directory that goes away. */

export interface RawEntry {
  readonly name?: string
  readonly type?: string
  readonly content?: Buffer | string
  readonly link?: string
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  readonly mtime?: number
  readonly device?: readonly [number, number]
  /** Written as it is, instead of the octal length of `content`. */
  readonly sizeField?: Buffer
  /** Records of a pax header before the entry. */
  readonly pax?: Readonly<Record<string, string>>
  readonly magic?: string
  readonly badChecksum?: boolean
}

export function rawEntry(entry: RawEntry): Buffer {
  const content = Buffer.from(entry.content ?? '')
  const block = Buffer.alloc(512)
  const octal = (value: number, at: number, digits: number): void => {
    block.write(value.toString(8).padStart(digits, '0'), at, 'latin1')
  }
  block.write(entry.name ?? '', 0, 100, 'latin1')
  octal(entry.mode ?? 0o644, 100, 7)
  octal(entry.uid ?? 0, 108, 7)
  octal(entry.gid ?? 0, 116, 7)
  octal(content.length, 124, 11)
  entry.sizeField?.copy(block, 124)
  octal(entry.mtime ?? 1_000_000_000, 136, 11)
  block.write(entry.type ?? '0', 156, 'latin1')
  block.write(entry.link ?? '', 157, 100, 'latin1')
  block.write(entry.magic ?? 'ustar\x0000', 257, 'latin1')
  octal(entry.device?.[0] ?? 0, 329, 7)
  octal(entry.device?.[1] ?? 0, 337, 7)
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0) + (entry.badChecksum === true ? 1 : 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  const pad = Buffer.alloc((512 - (content.length % 512)) % 512)
  const own = Buffer.concat([block, content, pad])
  if (entry.pax === undefined) return own
  const body = Object.entries(entry.pax)
    .map(([key, value]) => paxRecord(key, value))
    .join('')
  return Buffer.concat([rawEntry({ name: 'pax', type: 'x', content: Buffer.from(body, 'latin1') }), own])
}

export function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`
  let length = rest.length
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return `${length}${rest}`
}

export function rawTar(...entries: readonly (RawEntry | Buffer)[]): Buffer {
  const parts = entries.map((entry) => (Buffer.isBuffer(entry) ? entry : rawEntry(entry)))
  return Buffer.concat([...parts, Buffer.alloc(1024)])
}

/** A directory for one test, removed when it goes out of scope. */
export interface Workshop extends Disposable {
  readonly root: string
  /** An empty directory `name/diff`; gives its path. */
  layer(name: string): string
  /** Unpacks `archive` into `name/diff`, with `name/headers.gz`. */
  apply(name: string, archive: Buffer, options?: Partial<ApplyParams>): ApplyResult
  /** The tar written again from an applied layer, which must be what came. */
  written(name: string): Buffer
}

export function openWorkshop(): Workshop {
  const root = mkdtempSync(join(tmpdir(), 'isula-build-layer-'))
  return {
    root,
    layer(name) {
      const upper = join(root, name, 'diff')
      mkdirSync(upper, { recursive: true })
      return upper
    },
    apply(name, archive, options = {}) {
      const upper = join(root, name, 'diff')
      if (!existsSync(upper)) mkdirSync(upper, { recursive: true })
      const file = join(root, name, 'archive')
      writeFileSync(file, archive)
      const fd = openSync(file, 'r')
      try {
        const applied = applyJob({
          ...{ fd, upper, range: undefined, lowers: [], limit: 2 ** 32, expectedDiffId: undefined },
          headersFile: join(root, name, 'headers.gz'),
          ...options,
        })
        if (applied === undefined) throw new Error('the layers below are needed')
        return applied
      } finally {
        closeSync(fd)
      }
    },
    written(name) {
      const file = join(root, `${name}.tar`)
      const fd = openSync(file, 'w')
      try {
        const layerDirectory = join(root, name)
        writeLayerJob({ layerDirectory, keepsHeaders: true, fd, expectedDiffId: undefined })
      } finally {
        closeSync(fd)
      }
      return readFileSync(file)
    },
    [Symbol.dispose]() {
      rmSync(root, { recursive: true, force: true })
    },
  }
}

/** Seeded random numbers, so that a failure can be repeated (mulberry32). */
export function seededRandom(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}
