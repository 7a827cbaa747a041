// The test command: installs what is missing, builds, checks, runs every test, and counts.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
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

/**
 * Tests start these programs as other users too, who do not get to what lies below a closed directory, as root's
 * home is. The programs lie below /mnt then, and so does Node.js, in a mount namespace that only the tests see.
 */
function reachable(command) {
  const node = dirname(dirname(process.execPath))
  if (isOpen(root) && isOpen(node)) return command
  const path = isOpen(node) ? process.env.PATH : `/mnt/node/bin:${process.env.PATH}`
  const script = `mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir /mnt/isula-build /mnt/node &&
    mount --bind "$0" /mnt/isula-build && mount --bind "$1" /mnt/node &&
    cd /mnt/isula-build && PATH=$2 && shift 2 && exec "$@"`
  return ['unshare', '--mount', 'sh', '-c', script, root, node, path, ...command]
}

/** Whether everybody may pass through the directories down to this one. */
function isOpen(path) {
  return (statSync(path).mode & 0o001) !== 0 && (path === '/' || isOpen(dirname(path)))
}

const lint = await run(bin('biome'), ['check', '.'])
total[lint === 0 ? 'passed' : 'failed']++
const types = await run(bin('tsc'), ['-p', 'tsconfig.test.json'])
total[types === 0 ? 'passed' : 'failed']++

const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
const [runner, ...args] = reachable(['node_modules/.bin/vitest', 'run', ...reporters])
const code = await run(runner, args)
try {
  const { numPassedTests, numFailedTests, numPendingTests, testResults } = JSON.parse(
    readFileSync(report, 'utf8'),
  )
  total.passed += numPassedTests
  total.failed += numFailedTests
  total.skipped += numPendingTests
  // A file that does not load, or whose clean-up fails, counts though no test in it failed.
  total.failed += testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((one) => one.status === 'failed'),
  ).length
} finally {
  rmSync(directory, { recursive: true, force: true })
}
// An error outside any test (an unhandled rejection) fails the run as well.
if (code !== 0 && total.failed === 0) total.failed++
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed === 0 ? 0 : 1
