'use strict'
const { runBundle } = require('./code-cache.cjs')
const { lazily } = require('./lazy-modules.cjs')

/** What a daemon needs when it has something to do, and not before its first answer. */
const late = new Set(['child_process', 'https', 'timers/promises', 'worker_threads', 'zlib'])

runBundle(
  module.filename.slice(0, -'.cjs'.length),
  module,
  lazily(require, (id) => late.has(id.replace(/^node:/, ''))),
)
