import { closeSync, fstatSync, readSync } from 'node:fs'
import { O_NOFOLLOW, O_RDONLY, openat } from '../../system/syscalls.js'
import type { Child, Content, Inode } from './destination.js'
import type { SourceFile, SourceReader } from './source-reader.js'
import { transfer } from './transfer.js'

/** Opens what an inode is to hold; `path` is for messages. */
export function openContent(inode: Inode, path: string): SourceFile {
  const { content } = inode
  if (content === undefined) throw new Error(`/${path} has no content`)
  if (content.kind === 'source') return content.reader.open(content.path)
  return openStored(content, inode.metadata.mtimeNs)
}

/** Opens a file that was already written to the upper. */
export function openWritten(upperFd: number, path: string): SourceFile {
  const fd = openat(upperFd, path, O_RDONLY | O_NOFOLLOW)
  const file = openStored({ kind: 'slice', fd, offset: 0, size: fstatSync(fd).size }, 0n)
  return { ...file, close: () => closeSync(fd) }
}

function openStored(content: Exclude<Content, { kind: 'source' }>, mtimeNs: bigint): SourceFile {
  const size = content.kind === 'bytes' ? content.bytes.length : content.size
  let at = 0
  return {
    size,
    mtimeNs,
    read(buffer) {
      const wanted = Math.min(buffer.length, size - at)
      if (content.kind === 'bytes') {
        buffer.set(content.bytes.subarray(at, at + wanted))
        at += wanted
        return wanted
      }
      const count = wanted === 0 ? 0 : readSync(content.fd, buffer, 0, wanted, content.offset + at)
      at += count
      return count
    },
    finish: () => ({ size, mtimeNs }),
    confirms: () => false,
    close: () => undefined,
  }
}

/** Reads what an inode that is not written would hold, if nobody did yet. */
export function readDigest(inode: Inode, path: string): void {
  if (inode.digest !== undefined) return
  const file = openContent(inode, path)
  try {
    inode.size = file.size
    inode.digest = transfer(
      file,
      inode.content?.kind === 'source' ? inode.content.path : path,
      () => undefined,
    )
  } finally {
    file.close()
  }
}

/** Tells readers which of these files are opened next. */
export function prefetchContent(children: readonly (readonly [string, Child])[]): void {
  const wanted = new Map<SourceReader, string[]>()
  for (const [, { node }] of children) {
    if (node.kind !== 'inode' || node.writtenAt !== undefined) continue
    if (node.content?.kind !== 'source') continue
    const paths = wanted.get(node.content.reader)
    if (paths === undefined) wanted.set(node.content.reader, [node.content.path])
    else paths.push(node.content.path)
  }
  for (const [reader, paths] of wanted) reader.prefetch(paths)
}
