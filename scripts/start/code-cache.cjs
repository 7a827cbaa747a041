'use strict'
// Runs a bundle from V8's code cache, so that a start compiles nothing. Beside `NAME.cjs`, which is this code, lie
// `NAME.js`, the bundle, whose first line says which one it is, and `NAME.cache`, made by the build and made anew when
// Node.js is another one. Without a usable cache everything works as well, only later.
const { closeSync, fchmodSync, openSync, readFileSync, renameSync, rmSync, writeSync } = require('node:fs')
const { dirname } = require('node:path')
const { Script } = require('node:vm')

/** Milliseconds after which a start is over, and what it has compiled is what starts need. */
const startTime = 3_000

/**
 * The wrapper of a CommonJS module. The compiled functions of a script are V8's own affair, apart from two things it
 * does not check: that the source is the same (only its length), and that the bytes are whole.
 */
function wrapped(source) {
  return `(function (exports, require, module, __filename, __dirname) {${source}\n})`
}

/** First bytes of a cache of this bundle for this Node.js; the bundle's first line has a digest of all others. */
function cacheHead(source) {
  const end = source.indexOf('\n')
  return Buffer.from(
    `isula-code-cache 1 ${process.version} ${process.arch} ${source.slice(0, end)}\n`,
    'latin1',
  )
}

/** V8 takes damaged data for good and crashes, hence the data is there twice; undefined when not both are the same. */
function readCache(path, head) {
  let bytes
  try {
    bytes = readFileSync(path)
  } catch {
    // No cache, or none for this user: the bundle is compiled.
    return undefined
  }
  const size = (bytes.length - head.length) / 2
  if (!Number.isInteger(size) || size <= 0 || !bytes.subarray(0, head.length).equals(head)) return undefined
  const data = bytes.subarray(head.length, head.length + size)
  return data.equals(bytes.subarray(head.length + size)) ? data : undefined
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
  // The bundler writes what is not ASCII as escapes, so one byte is one character.
  const source = readFileSync(`${base}.js`, 'latin1')
  const head = cacheHead(source)
  const cachedData = readCache(`${base}.cache`, head)
  const script = new Script(wrapped(source), { filename: `${base}.js`, cachedData })
  return {
    script,
    isCached: cachedData !== undefined && !script.cachedDataRejected,
    save: () => writeCache(`${base}.cache`, head, script),
  }
}

/** Runs the bundle that belongs to the file of `entry`, with its exports. */
function runBundle(entry, require) {
  const base = entry.filename.slice(0, -'.cjs'.length)
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
