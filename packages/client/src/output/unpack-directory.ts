import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { TarError } from '../build/tar-member.js'
import { fileError } from '../file-error.js'
import { createTarStream, type TarHead, type TarStream } from './tar-stream.js'

export interface UnpackOptions {
  /** Give the entries their owners and special mode bits, which takes root. */
  readonly owners: boolean
  /** Told once for everything that is left out. */
  readonly onOmitted: (what: string) => void
}

export interface DirectoryUnpacker extends TarStream {
  /** Closes what is open; what was unpacked stays. */
  close(): void
}

const { O_DIRECTORY, O_NOFOLLOW, O_WRONLY, O_CREAT, O_EXCL } = constants
/** Only to look below it (open(2)); needs no right to list. */
const O_PATH = 0o10000000

/**
 * Unpacks a tar into an existing directory. Directories that are there are filled, other things replaced, never
 * written through. Every step goes from one open directory to the next without following a link, so nothing outside
 * of `root` is touched, whatever the tar holds and whoever else writes there. Devices and FIFOs are left out. Fails
 * with a TarError, and as the file system does.
 */
export function createDirectoryUnpacker(root: string, options: UnpackOptions): DirectoryUnpacker {
  const rootFd = attempt(root, () => openSync(root, O_PATH | O_DIRECTORY))
  /** Modes and times of directories, which filling them changes. */
  const directories: { readonly parts: readonly string[]; readonly head: TarHead }[] = []
  const omitted = new Set<string>()
  let withAttributes = 0
  let parentPath = ''
  let parentFd = -1
  let file: { readonly fd: number; readonly head: TarHead } | undefined
  let isClosed = false

  /** The directory at these components, to be closed by who asked. */
  function openBelow(parts: readonly string[]): number {
    let fd = openDirectory(rootFd, '.')
    for (const part of parts) {
      const above = fd
      try {
        fd = openDirectory(above, part)
      } finally {
        closeSync(above)
      }
    }
    return fd
  }

  function parentOf(parts: readonly string[]): number {
    const path = parts.slice(0, -1).join('/')
    if (parentFd >= 0 && path === parentPath) return parentFd
    forgetParent()
    parentFd = openBelow(parts.slice(0, -1))
    parentPath = path
    return parentFd
  }

  function forgetParent(): void {
    if (parentFd >= 0) closeSync(parentFd)
    parentFd = -1
  }

  function entry(head: TarHead): void {
    const parts = partsOf(head.path)
    // The directory itself is the user's, whatever the root of the image is like.
    if (parts.length === 0) return
    const name = parts.at(-1) ?? ''
    attempt(textOfBytes(head.path), () => {
      if (head.type === 'other') omit(parts, `${textOfBytes(head.path)} is a device or FIFO`)
      else if (head.type === 'directory') makeDirectory(parts, name, head)
      else if (head.type === 'hardlink') makeLink(parts, name, head)
      else {
        const parent = parentOf(parts)
        makeRoom(parent, name)
        if (head.type === 'file') {
          const fd = openSync(at(parent, name), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
          file = { fd, head }
        } else makeSymlink(parent, name, head)
      }
    })
    if (head.hasAttributes) withAttributes += 1
  }

  function omit(parts: readonly string[], what: string): void {
    omitted.add(parts.join('/'))
    options.onOmitted(what)
  }

  function makeDirectory(parts: readonly string[], name: string, head: TarHead): void {
    const parent = parentOf(parts)
    const found = lstatSync(at(parent, name), { throwIfNoEntry: false })
    if (found !== undefined && !found.isDirectory()) unlinkSync(at(parent, name))
    if (found === undefined || !found.isDirectory()) mkdirSync(at(parent, name), 0o700)
    directories.push({ parts, head })
  }

  function makeLink(parts: readonly string[], name: string, head: TarHead): void {
    const target = partsOf(head.linkName)
    if (target.length === 0) throw new TarError(`"${textOfBytes(head.path)}" is a hard link to nothing`)
    if (omitted.has(target.join('/'))) {
      omit(parts, `${textOfBytes(head.path)} is a device or FIFO`)
      return
    }
    if (target.join('/') === parts.join('/')) return
    const from = openBelow(target.slice(0, -1))
    try {
      const parent = parentOf(parts)
      makeRoom(parent, name)
      linkSync(at(from, target.at(-1) ?? ''), at(parent, name))
    } finally {
      closeSync(from)
    }
  }

  function makeSymlink(parent: number, name: string, { linkName, uid, gid, mtime }: TarHead): void {
    symlinkSync(Buffer.from(linkName, 'latin1'), at(parent, name))
    if (options.owners) lchownSync(at(parent, name), uid, gid)
    lutimesSync(at(parent, name), mtime, mtime)
  }

  function describeDirectory(parts: readonly string[], { uid, gid, mode, mtime }: TarHead): void {
    const fd = openBelow(parts)
    try {
      const path = `/proc/self/fd/${fd}`
      if (options.owners) chownSync(path, uid, gid)
      chmodSync(path, allowed(mode))
      utimesSync(path, mtime, mtime)
    } finally {
      closeSync(fd)
    }
  }

  /** Whoever cannot give a file away would make a setuid program of his own. */
  function allowed(mode: number): number {
    return options.owners ? mode : mode & 0o777
  }

  const stream = createTarStream({
    entry,
    content(piece) {
      const current = file
      if (current === undefined) return
      attempt(textOfBytes(current.head.path), () => {
        for (let done = 0; done < piece.length; ) done += writeSync(current.fd, piece, done)
      })
    },
    end() {
      if (file === undefined) return
      const { fd, head } = file
      attempt(textOfBytes(head.path), () => {
        // chown clears setuid, so it comes first.
        if (options.owners) fchownSync(fd, head.uid, head.gid)
        fchmodSync(fd, allowed(head.mode))
        futimesSync(fd, head.mtime, head.mtime)
      })
      file = undefined
      closeSync(fd)
    },
  })

  return {
    write: stream.write,
    finish() {
      stream.finish()
      forgetParent()
      // What is inside may no longer be reached once the mode of the outer one is set.
      for (const { parts, head } of directories.toReversed()) {
        attempt(textOfBytes(head.path), () => describeDirectory(parts, head))
      }
      if (withAttributes > 0) options.onOmitted(`extended attributes of ${withAttributes} files`)
    },
    close() {
      if (isClosed) return
      isClosed = true
      forgetParent()
      if (file !== undefined) closeSync(file.fd)
      file = undefined
      closeSync(rootFd)
    },
  }
}

/** Components of a name in the archive; a leading slash means the root of the image. */
function partsOf(path: string): readonly string[] {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.')
  if (parts.includes('..') || path.includes('\0')) {
    throw new TarError(`"${textOfBytes(path)}" leads out of the directory`)
  }
  return parts
}

/** Bytes, as names in an image need not be text. */
function at(directory: number, name: string): Buffer {
  return Buffer.from(`/proc/self/fd/${directory}/${name}`, 'latin1')
}

function openDirectory(above: number, name: string): number {
  return openSync(at(above, name), O_PATH | O_DIRECTORY | O_NOFOLLOW)
}

/** A directory is only replaced when it is empty. */
function makeRoom(parent: number, name: string): void {
  const found = lstatSync(at(parent, name), { throwIfNoEntry: false })
  if (found === undefined) return
  if (found.isDirectory()) rmdirSync(at(parent, name))
  else unlinkSync(at(parent, name))
}

/** What the file system refuses is told by the name in the archive, not by that of the open directory. */
function attempt<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw fileError(error, path, 'cannot unpack: ')
  }
}
