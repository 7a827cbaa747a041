import { createHash } from 'node:crypto'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'

/** Path, kind, mode, owner, time and content of everything in a tree, itself included; sorted lines. */
export function snapshotTree(root: string): readonly string[] {
  const lines: string[] = []
  const visit = (path: string): void => {
    const stat = lstatSync(path, { bigint: true })
    const facts = [stat.mode.toString(8), stat.uid, stat.gid, stat.nlink, stat.mtimeNs]
    let content = ''
    if (stat.isSymbolicLink()) content = readlinkSync(path)
    else if (stat.isFile()) content = createHash('sha256').update(readFileSync(path)).digest('hex')
    lines.push([path, ...facts, content].join(' '))
    if (stat.isDirectory()) for (const name of readdirSync(path).sort()) visit(join(path, name))
  }
  visit(root)
  return lines
}

/** What can be told of a large tree without reading its files: kind, mode, owner, size and time. */
export function outlineTree(root: string): readonly string[] {
  const lines: string[] = []
  const visit = (path: string): void => {
    const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false })
    if (stat === undefined) return
    const size = stat.isDirectory() ? 0n : stat.size
    lines.push([path, stat.mode.toString(8), stat.uid, stat.gid, size, stat.mtimeNs].join(' '))
    if (stat.isDirectory()) for (const name of readdirSync(path).sort()) visit(join(path, name))
  }
  visit(root)
  return lines
}
