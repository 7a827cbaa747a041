'use strict'
require('./code-cache.cjs').runBundle(module, require('./lazy-modules.cjs').lazily(require))
