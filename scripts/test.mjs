// The test command: installs what is missing, builds, checks, runs every test, and counts. A test file that fails
// beside others is judged by a second run alone, and told: what only a crowded machine can break is named each time,
// and hides no result of the other tests.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { forTests, root, setUp } from './lib/setup.mjs'

const bin = (name) => join(root, 'node_modules/.bin', name)
const directory = mkdtempSync(join(tmpdir(), 'isula-test-'))
const total = { passed: 0, failed: 0, skipped: 0 }
/** What is said again at the end, where the output of thousands of tests has not scrolled away. */
const findings = []
/** More files than this that fail are no accident of a crowded machine. */
const mostJudgedAlone = 3

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

/** Where the programs lie for tests when their own place is closed to other users. */
const elsewhere = '/mnt/isula-build'

/**
 * Tests start these programs as other users too, who do not get to what lies below a closed directory, as root's
 * home is. The programs lie below /mnt then, and so does Node.js, in a mount namespace that only the tests see.
 */
function reachable(command) {
  const node = dirname(dirname(process.execPath))
  if (isOpen(root) && isOpen(node)) return command
  const path = isOpen(node) ? process.env.PATH : `/mnt/node/bin:${process.env.PATH}`
  const script = `mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir ${elsewhere} /mnt/node &&
    mount --bind "$0" ${elsewhere} && mount --bind "$1" /mnt/node &&
    cd ${elsewhere} && PATH=$2 && shift 2 && exec "$@"`
  return ['unshare', '--mount', 'sh', '-c', script, root, node, path, ...command]
}

/** Whether everybody may pass through the directories down to this one. */
function isOpen(path) {
  return (statSync(path).mode & 0o001) !== 0 && (path === '/' || isOpen(dirname(path)))
}

function count(name, code) {
  if (code === 0) total.passed++
  else countFailure(`failed: ${name}`)
}

/**
 * Counts the results of a run of vitest, of which `begin` gets the arguments. Returns the files that failed; those
 * that `begin` can run `alone` are left uncounted when they are few.
 */
async function runTests(name, begin, { alone = false } = {}) {
  const report = join(directory, `${name}.json`)
  const unhandled = join(directory, `${name}-unhandled.json`)
  const reporters = ['default', 'json', './scripts/lib/unhandled-reporter.mjs'].map(
    (one) => `--reporter=${one}`,
  )
  const outputs = [`--outputFile.json=${report}`, `--outputFile.unhandled=${unhandled}`]
  const code = await begin('run', ...reporters, ...outputs)
  let files
  try {
    files = JSON.parse(readFileSync(report, 'utf8')).testResults
    for (const message of JSON.parse(readFileSync(unhandled, 'utf8')))
      countFailure(`outside any test: ${message}`)
  } catch (error) {
    countFailure(`no results of ${name}: ${error.message}`)
    return []
  }
  const failed = files.filter((file) => file.status === 'failed')
  if (code !== 0 && failed.length === 0) countFailure(`${name} ended with exit status ${code}`)
  const judgedAlone = alone && failed.length <= mostJudgedAlone ? failed : []
  for (const file of files) if (!judgedAlone.includes(file)) countFile(file)
  return judgedAlone
}

function countFile(file) {
  for (const test of file.assertionResults) {
    if (test.status === 'passed') total.passed++
    else if (test.status === 'failed') countFailure(`failed: ${told(file, test)}`)
    else total.skipped++
  }
  // A file that does not load, or whose clean-up fails, counts though no test in it failed.
  if (file.status === 'failed' && !failuresOf(file).length) countFailure(`failed: ${told(file)}`)
}

function countFailure(finding) {
  total.failed++
  findings.push(finding)
}

const failuresOf = (file) => file.assertionResults.filter((test) => test.status === 'failed')

function told(file, test) {
  const [reason = ''] = (test?.failureMessages[0] ?? file.message ?? '').split('\n')
  return `${[pathOf(file), test?.fullName].filter(Boolean).join(' > ')}: ${reason}`
}

const pathOf = (file) => relative(file.name.startsWith(elsewhere) ? elsewhere : root, file.name)

async function runWhatComputes() {
  count('biome', await runBeside(bin('biome'), ['check', '.']))
  count('tsc', await runBeside(bin('tsc'), ['-p', 'tsconfig.test.json']))
  await runTests('pure', (...args) =>
    runBeside(bin('vitest'), [...args, '--project', 'pure', '--project', 'fuzz']),
  )
}

function runBesideOthers(...args) {
  const projects = ['unit', 'e2e'].flatMap((name) => ['--project', name])
  const [program, ...rest] = reachable(['node_modules/.bin/vitest', ...args, ...projects])
  return run(program, rest)
}

async function runAlone(failed) {
  const paths = failed.map(pathOf)
  console.log(`once more, alone: ${paths.join(' ')}`)
  const failedBefore = total.failed
  await runTests('alone', (...args) => runBesideOthers(...args, '--no-file-parallelism', ...paths))
  if (total.failed > failedBefore) return
  for (const file of failed)
    for (const test of failuresOf(file).length ? failuresOf(file) : [undefined])
      findings.push(`failed beside other tests, passed alone: ${told(file, test)}`)
}

let computed
try {
  await setUp(forTests, () => {
    // Certificates beside those that Node.js brings cost every start of it 60 ms, and tests start it thousands of times.
    delete process.env.NODE_EXTRA_CA_CERTS
    computed = runWhatComputes()
  })
  const [failed] = await Promise.all([runTests('tests', runBesideOthers, { alone: true }), computed])
  if (failed.length) await runAlone(failed)
} finally {
  rmSync(directory, { recursive: true, force: true })
}
for (const finding of findings) console.log(finding)
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed === 0 ? 0 : 1
