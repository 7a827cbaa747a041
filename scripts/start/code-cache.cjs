'use strict'
// Runs a bundle from V8's code cache, so that a start compiles nothing. `NAME.js` is the bundle, the function of a
// CommonJS module, whose first line says which one it is; beside it lies `NAME.cache`, made by the build and made anew
// when Node.js is another one. Without a usable cache everything works as well, only later.
const {
  closeSync,
  fchmodSync,
  fstatSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} = require('node:fs')
const { dirname } = require('node:path')
const { Script } = require('node:vm')

/** Milliseconds after which a start is over, and what it has compiled is what starts need. */
const startTime = 3_000

/** Bytes of the second copy that are looked at together. */
const compared = 1 << 15
/** V8 copies data whose address is no multiple of this. */
const alignment = 8

/**
 * First bytes of a cache of this bundle for this Node.js; the bundle's first line has a digest of all others. The
 * compiled functions of a script are V8's own affair, apart from two things it does not check: that the source is the
 * same (only its length), and that the bytes are whole.
 */
function cacheHead(source) {
  const digest = source.slice(0, source.indexOf('\n'))
  const text = `isula-code-cache 2 ${process.version} ${process.arch} ${digest}`
  return Buffer.from(`${text.padEnd(Math.ceil((text.length + 1) / alignment) * alignment - 1)}\n`, 'latin1')
}

/** Undefined: there is none, or none for this user, and the bundle is compiled. */
function openCache(path) {
  try {
    return openSync(path)
  } catch {
    return undefined
  }
}

/**
 * V8 takes damaged data for good and crashes, hence the data is there twice; undefined when not both are the same. `room`
 * is for the head and the first of them.
 */
function readCache(file, room, head) {
  const data = room.subarray(head.length)
  try {
    return isWhole(file, room, head) && isRepeated(file, data) ? data : undefined
  } catch {
    // The disk does not give it: the bundle is compiled.
    return undefined
  }
}

function isWhole(file, room, head) {
  return fill(file, room) && room.subarray(0, head.length).equals(head)
}

function isRepeated(file, data) {
  const second = Buffer.allocUnsafeSlow(Math.min(compared, data.length))
  for (let at = 0; at < data.length; at += compared) {
    const wanted = data.subarray(at, at + compared)
    const part = second.subarray(0, wanted.length)
    if (!fill(file, part) || !part.equals(wanted)) return false
  }
  return true
}

/** Reads on until `bytes` are full; whether there was as much. */
function fill(file, bytes) {
  for (let at = 0; at < bytes.length; ) {
    const count = readSync(file, bytes, at, bytes.length - at)
    if (count === 0) return false
    at += count
  }
  return true
}

/** Writes the cache of what `script` has compiled by now. Others see the old file or the whole new one. */
function writeCache(path, head, script) {
  const data = script.createCachedData()
  const next = `${path}.${process.pid}-${process.hrtime.bigint()}`
  const file = openSync(next, 'wx', 0o644)
  try {
    // Readable by all users, whatever the umask of the one who was first.
    fchmodSync(file, 0o644)
    for (const part of [head, data, data]) writeAll(file, part)
    renameSync(next, path)
  } catch (error) {
    rmSync(next, { force: true })
    throw error
  } finally {
    closeSync(file)
  }
}

function writeAll(file, bytes) {
  for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
}

/** The script of the bundle `base`.js, and how to save what it compiles; `isCached` when there is no need to. */
function loadBundle(base) {
  const file = openSync(`${base}.js`)
  const cache = openCache(`${base}.cache`)
  const length = fstatSync(file).size
  const stat = cache === undefined ? undefined : fstatSync(cache)
  const cacheLength = stat?.isFile() ? stat.size : 0
  // One room for both, one after the other: every page of memory that is touched for the first time costs a start too.
  const room = Buffer.allocUnsafeSlow(Math.max(length, cacheLength))
  if (!fill(file, room.subarray(0, length))) throw new Error(`${base}.js was cut short while it was read`)
  // The bundler writes what is not ASCII as escapes, so one byte is one character.
  const source = room.toString('latin1', 0, length)
  const head = cacheHead(source)
  const firstLength = (cacheLength + head.length) / 2
  const cachedData =
    firstLength > head.length && Number.isInteger(firstLength)
      ? readCache(cache, room.subarray(0, firstLength), head)
      : undefined
  for (const one of [file, cache]) if (one !== undefined) closeSync(one)
  const script = new Script(source, { filename: `${base}.js`, cachedData })
  return {
    script,
    isCached: cachedData !== undefined && !script.cachedDataRejected,
    save: () => writeCache(`${base}.cache`, head, script),
  }
}

/** Runs the bundle `base`.js as the module `entry`. */
function runBundle(base, entry, require) {
  const { script, isCached, save } = loadBundle(base)
  if (!isCached) saveLater(save)
  script.runInThisContext()(entry.exports, require, entry, `${base}.js`, dirname(base))
}

function saveLater(save) {
  let isSaved = false
  const once = () => {
    if (isSaved) return
    isSaved = true
    try {
      save()
    } catch {
      // Read-only, full, or not this user's: the next start compiles again.
    }
  }
  process.once('exit', once)
  setTimeout(once, startTime).unref()
}

module.exports = { loadBundle, runBundle }
