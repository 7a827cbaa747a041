'use strict'
// Modules of Node.js that are loaded when something of them is first used. A bundle names all that any of its commands
// may need, and a command needs few: `node:http`, `node:crypto` and their like take longer than all else it does.

/**
 * `require` for a bundle that never looks at what a module exports without using it; `isLate` says of which modules
 * that is true.
 */
function lazily(require, isLate = (id) => id.startsWith('node:')) {
  return (id) => {
    if (!isLate(id)) return require(id)
    let loaded
    return new Proxy(Object.create(null), {
      get(_target, name) {
        loaded ??= require(id)
        return loaded[name]
      },
    })
  }
}

module.exports = { lazily }
