import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { createContentIdentity } from './content-id.js'
import { noAttributes, type TarEntry } from './entry.js'

const file: TarEntry = {
  ...{ path: 'a', type: 'file', mode: 0o644, uid: 0, gid: 0, size: 1, mtimeNs: 0n, linkName: '' },
  ...{ deviceMajor: 0, deviceMinor: 0, xattrs: noAttributes },
}
const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

function idOf(...entries: readonly (readonly [TarEntry, string?])[]): string {
  const identity = createContentIdentity()
  for (const [entry, content] of entries) {
    identity.entry(entry)
    if (content !== undefined) identity.content(digest(content))
  }
  return identity.finish()
}

test('is the same whenever a file was written', () => {
  expect(idOf([{ ...file, mtimeNs: 5n }, 'x'])).toBe(idOf([file, 'x']))
})

test('differs with everything else', () => {
  const attribute = (name: string, value: string) => ({ name, value: Buffer.from(value, 'latin1') })
  const ids = [
    idOf(),
    idOf([file, 'x']),
    idOf([file, 'y']),
    idOf([file]),
    idOf([{ ...file, path: 'b' }, 'x']),
    idOf([{ ...file, type: 'symlink' }, 'x']),
    idOf([{ ...file, mode: 0o600 }, 'x']),
    idOf([{ ...file, uid: 1 }, 'x']),
    idOf([{ ...file, gid: 1 }, 'x']),
    idOf([{ ...file, size: 2 }, 'x']),
    idOf([{ ...file, linkName: 't' }, 'x']),
    idOf([{ ...file, deviceMajor: 1 }, 'x']),
    idOf([{ ...file, deviceMinor: 1 }, 'x']),
    idOf([{ ...file, xattrs: [attribute('user.a', 'b')] }, 'x']),
    idOf([{ ...file, xattrs: [attribute('user.a', ''), attribute('user.b', '')] }, 'x']),
    idOf([{ ...file, xattrs: [attribute('user.a', 'user.b')] }, 'x']),
    idOf([file, 'x'], [file, 'x']),
  ]
  expect(new Set(ids).size).toBe(ids.length)
  for (const id of ids) expect(id).toMatch(/^content:[0-9a-f]{64}$/)
})

test('entries beyond one piece count as well', () => {
  const many = (last: string) =>
    idOf(
      ...Array.from(
        { length: 5000 },
        (_, i) => [{ ...file, path: `f${i}` }, i === 4999 ? last : 'x'] as const,
      ),
    )
  expect(many('x')).not.toBe(many('y'))
})
