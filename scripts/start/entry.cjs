'use strict'
require('./code-cache.cjs').runBundle(module, require)
