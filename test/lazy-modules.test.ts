import { execFileSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const lazyModules = join(dirname(dirname(fileURLToPath(import.meta.url))), 'scripts/start/lazy-modules.cjs')

/** What a program prints that has `load` for its `require`. */
function run(program: string): unknown {
  const script = `
    const load = require(${JSON.stringify(lazyModules)}).lazily(require)
    const isLoaded = (name) => process.moduleLoadList.includes('NativeModule ' + name)
    const show = (value) => process.stdout.write(JSON.stringify(value))
    ${program}`
  return JSON.parse(execFileSync(process.execPath, ['-e', script], { env: {} }).toString())
}

test('a module of Node.js is loaded when it is used, and once', () => {
  expect(
    run(`const http = load('node:http')
    const before = isLoaded('http')
    const known = http.STATUS_CODES
    show([before, isLoaded('http'), known === load('node:http').STATUS_CODES, known[404]])`),
  ).toEqual([false, true, true, 'Not Found'])
})

test('its functions and classes are its own', () => {
  expect(
    run(`const path = load('node:path')
    const { EventEmitter } = load('node:events')
    class Mine extends load('node:events').EventEmitter {}
    show([(0, path.join)('a', 'b'), new Mine() instanceof EventEmitter, path.nothing === undefined])`),
  ).toEqual(['a/b', true, true])
})

test('other modules are loaded at once, and what is missing is missing at once', () => {
  expect(
    run(`let code
    try { load('./nothing.cjs') } catch (error) { code = error.code }
    show([load(${JSON.stringify(lazyModules)}).lazily === require(${JSON.stringify(lazyModules)}).lazily, code])`),
  ).toEqual([true, 'MODULE_NOT_FOUND'])
})
