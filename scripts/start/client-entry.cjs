'use strict'
// Ends bin/isula-build itself: a module more to find and to compile would be a thirtieth of a start.
const { join } = require('node:path')
require('./code-cache.cjs').runBundle(
  join(__dirname, '../dist/client/main'),
  module,
  require('./lazy-modules.cjs').lazily(require),
)
