// The test command: installs what is missing, builds, checks, runs every test, and counts.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { forTests, root, setUp } from './lib/setup.mjs'

const bin = (name) => join(root, 'node_modules/.bin', name)
const directory = mkdtempSync(join(tmpdir(), 'isula-test-'))
const total = { passed: 0, failed: 0, skipped: 0 }

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}

/**
 * Runs a command that only computes at the lowest priority, in the time in which tests wait; shows what it says when
 * it has ended.
 */
function runBeside(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn('nice', ['-n', '19', command, ...args], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    process.once('exit', () => child.kill())
    const output = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => output.push(part))
    child.once('error', reject)
    child.once('close', (code) => {
      process.stdout.write(Buffer.concat(output))
      resolve(code ?? 1)
    })
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

function count(code) {
  total[code === 0 ? 'passed' : 'failed']++
}

/** Counts the results of a run of vitest, of which `begin` gets the arguments. */
async function runTests(name, begin) {
  const report = join(directory, `${name}.json`)
  const code = await begin('run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`)
  const failedBefore = total.failed
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
  } catch (error) {
    console.error(`no results of ${name}: ${error.message}`)
    total.failed++
  }
  // An error outside any test (an unhandled rejection) fails the run as well.
  if (code !== 0 && total.failed === failedBefore) total.failed++
}

async function runWhatComputes() {
  count(await runBeside(bin('biome'), ['check', '.']))
  count(await runBeside(bin('tsc'), ['-p', 'tsconfig.test.json']))
  await runTests('pure', (...args) =>
    runBeside(bin('vitest'), [...args, '--project', 'pure', '--project', 'fuzz']),
  )
}

let computed
try {
  await setUp(forTests, () => {
    // Certificates beside those that Node.js brings cost every start of it 60 ms, and tests start it thousands of times.
    delete process.env.NODE_EXTRA_CA_CERTS
    computed = runWhatComputes()
  })
  await Promise.all([
    computed,
    runTests('tests', (...args) => {
      const projects = ['unit', 'e2e'].flatMap((name) => ['--project', name])
      const [program, ...rest] = reachable(['node_modules/.bin/vitest', ...args, ...projects])
      return run(program, rest)
    }),
  ])
} finally {
  rmSync(directory, { recursive: true, force: true })
}
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed === 0 ? 0 : 1
