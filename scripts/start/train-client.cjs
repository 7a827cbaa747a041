'use strict'
// Makes the client's code cache: runs its commands within this process, against a daemon that answers at once, so that
// V8 has compiled what they need. Usage: train-client.cjs BUNDLE ANSWERS, in an empty directory; BUNDLE without suffix.
const { mkdirSync, writeFileSync } = require('node:fs')
const { createServer } = require('node:http2')
const { resolve } = require('node:path')
const { loadBundle } = require('./code-cache.cjs')
const { lazily } = require('./lazy-modules.cjs')

const [bundle, answersFile] = process.argv.slice(2).map((path) => resolve(path))
const { answers } = require(answersFile)
const host = `unix://${resolve('socket')}`
// Those that are there at once, or a hundred times at once. What only others compile would have to be loaded by all.
const commands = [
  ['version'],
  ['ctr-img', 'images'],
  ['ctr-img', 'build', '-t', 'a:b', 'context'],
  ['ctr-img', 'build', '-t', 'a:b', '--build-arg', 'A=1', '-f', 'Dockerfile', 'context'],
]

function prefixed(message) {
  const prefix = Buffer.alloc(5)
  prefix.writeUInt32BE(message.length, 1)
  return Buffer.concat([prefix, message])
}

function answer(stream, { ':path': path }) {
  stream.on('error', () => undefined)
  const messages = answers[path]
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': messages === undefined ? '12' : '0' }))
  stream.resume()
  stream.end(Buffer.concat((messages ?? []).map(prefixed)))
}

async function train() {
  mkdirSync('context')
  writeFileSync('context/Dockerfile', 'FROM scratch\n')
  const server = createServer()
  server.on('stream', answer)
  await new Promise((listening) => server.listen('socket', listening))
  // Every start adds listeners of its own.
  for (const stream of [process.stdout, process.stderr]) stream.setMaxListeners(0)
  const { script, save } = loadBundle(bundle)
  for (const words of commands) await command(script, words)
  server.close()
  save()
  // Commands that failed, as some are meant to, have set one.
  process.exitCode = 0
}

/** The bundle is a function of its module, so it can start again and again. */
async function command(script, words) {
  process.argv = [process.argv0, bundle, ...words, '--host', host]
  const ended = new Promise((resolve) => {
    process.exit = resolve
  })
  script.runInThisContext()({}, lazily(require), module, `${bundle}.js`, process.cwd())
  await ended
}

train()
