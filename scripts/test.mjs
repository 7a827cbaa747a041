// The test command: installs what is missing, builds, checks, runs every test, and counts.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { forTests, root, setUp } from './lib/setup.mjs'

setUp(forTests)

const bin = (name) => join(root, 'node_modules/.bin', name)
const directory = mkdtempSync(join(tmpdir(), 'isula-test-'))
const report = join(directory, 'report.json')
const total = { passed: 0, failed: 0, skipped: 0 }

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}

const lint = await run(bin('biome'), ['check', '.'])
total[lint === 0 ? 'passed' : 'failed']++
const types = await run(bin('tsc'), ['-p', 'tsconfig.test.json'])
total[types === 0 ? 'passed' : 'failed']++

const code = await run(bin('vitest'), [
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
])
try {
  const { numPassedTests, numFailedTests, numPendingTests, testResults } = JSON.parse(
    readFileSync(report, 'utf8'),
  )
  total.passed += numPassedTests
  total.failed += numFailedTests
  total.skipped += numPendingTests
  // A file that does not even load holds no test that could fail.
  total.failed += testResults.filter(
    ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
  ).length
} finally {
  rmSync(directory, { recursive: true, force: true })
}
// An error outside any test (an unhandled rejection) fails the run as well.
if (code !== 0 && total.failed === 0) total.failed++
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed === 0 ? 0 : 1
