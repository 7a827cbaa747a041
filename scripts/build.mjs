// Builds everything: type-checks, compiles and bundles, and leaves runnable programs in bin/.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const at = (...parts) => join(root, ...parts)
const { version } = JSON.parse(readFileSync(at('package.json'), 'utf8'))

// `--no-types` leaves out the type check and the daemon's code cache, for quick rounds of editing.
const isQuick = process.argv.includes('--no-types')
if (!isQuick) {
  execFileSync(process.execPath, [at('node_modules/typescript/bin/tsc'), '-b'], {
    cwd: root,
    stdio: 'inherit',
  })
}

function commit() {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
      .toString()
      .trim()
  } catch {
    return 'unknown'
  }
}

/** Bundles take the sources of `shared`, so that they never hold an older compilation. */
const sharedSources = {
  name: 'shared-sources',
  setup(bundler) {
    bundler.onResolve({ filter: /^@isula-build\/shared\// }, ({ path }) => ({
      path: at('packages/shared/src', path.slice('@isula-build/shared/'.length).replace(/\.js$/, '.ts')),
    }))
  },
}

/**
 * Libraries with a native part go into the bundles, and what they load by many looks at many places is named: the parts
 * themselves stay files of their packages.
 */
const nativeParts = {
  name: 'native-parts',
  setup(bundler) {
    const addon = 'better-sqlite3/build/Release/better_sqlite3.node'
    bundler.onResolve({ filter: /^bindings$/ }, () => ({ path: addon, namespace: 'addon' }))
    bundler.onLoad({ filter: /.*/, namespace: 'addon' }, ({ path }) => ({
      contents: `module.exports = () => require(${JSON.stringify(path)})`,
    }))
  },
}

/**
 * Libraries without the parts that nobody uses. Of gRPC, the clients: only what describes a server to others (channelz,
 * ORCA) would want them, and nobody asks it to. Of the logger, the threads that lines may go through.
 */
const neededParts = {
  name: 'needed-parts',
  setup(bundler) {
    bundler.onResolve({ filter: /^thread-stream$/ }, ({ path }) => ({ path, namespace: 'nothing' }))
    bundler.onResolve({ filter: /^@grpc\/grpc-js$/ }, () => ({ path: at('scripts/start/grpc-server.cjs') }))
    const clients = /^\.\/(admin|make-client|channel-credentials)$/
    bundler.onResolve({ filter: clients }, ({ path, importer }) =>
      /\/@grpc\/grpc-js\/build\/src\/(channelz|orca)\.js$/.test(importer)
        ? { path, namespace: 'nothing' }
        : undefined,
    )
    bundler.onLoad({ filter: /.*/, namespace: 'nothing' }, () => ({ contents: 'module.exports = {}' }))
  },
}

const common = {
  plugins: [sharedSources],
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  minifySyntax: true,
  legalComments: 'none',
  logLevel: 'warning',
  define: {
    'import.meta.url': '__moduleUrl',
    BUILD_VERSION: JSON.stringify(version),
    BUILD_COMMIT: JSON.stringify(commit()),
    BUILD_TIME: JSON.stringify(new Date().toISOString()),
  },
  write: false,
}

/**
 * Writes the programs of `entries` to dist/NAME: each as a bundle in `.js`, whose first line says which it is, and
 * what starts it, made from scripts/start/STARTER, in `.cjs`; without a starter, its program does.
 */
async function bundle(name, starter, entries, options) {
  const start = starter === undefined ? undefined : await starterText(starter)
  const directory = at('dist', name)
  const { outputFiles } = await build({ ...common, ...options, entryPoints: entries, outdir: directory })
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })
  for (const { path, text: contents } of outputFiles) {
    const digest = createHash('sha256').update(contents).digest('hex')
    writeFileSync(path, `// ${digest}\n${moduleFunction(contents)}`)
    if (start !== undefined) writeFileSync(path.replace(/\.js$/, '.cjs'), start)
  }
}

/** As Node.js has it of a CommonJS module. Here, where it need not be copied at each start to be put around the code. */
function moduleFunction(code) {
  return `(function (exports, require, module, __filename, __dirname) {${code}\n})`
}

/** scripts/start/NAME with all that it asks for of its own. */
async function starterText(name) {
  const entryPoints = [at('scripts/start', name)]
  const { outputFiles } = await build({ ...common, entryPoints, banner: { js: "'use strict';" } })
  return outputFiles[0].text
}

const daemon = 'packages/builder-daemon/src'
await bundle(
  'daemon',
  'entry.cjs',
  {
    main: at(daemon, 'main.ts'),
    'layer-worker': at(daemon, 'workers/layer-worker.ts'),
    'database-worker': at(daemon, 'workers/database-worker.ts'),
    'transfer-worker': at(daemon, 'workers/transfer-worker.ts'),
    'identity-helper': at(daemon, 'workers/identity-helper.ts'),
    launcher: at(daemon, 'workers/launcher.ts'),
  },
  {
    plugins: [sharedSources, nativeParts, neededParts],
    // The loader is asked for by what describes a server, too.
    external: ['@koromix/*', '*.node', '@grpc/proto-loader'],
    // The sources are modules; bundled as CommonJS they start faster, and this is their own address.
    banner: {
      js: "'use strict';const __moduleUrl = require('node:url').pathToFileURL(__filename).href;",
    },
  },
)
await bundle(
  'client',
  undefined,
  { main: at('packages/client/src/main.ts') },
  { banner: { js: "'use strict';" } },
)
await trainClient()

mkdirSync(at('bin'), { recursive: true })
writeFileSync(at('bin/package.json'), '{ "type": "commonjs" }\n')
for (const name of ['isula-build', 'ctr-img']) {
  const text = readFileSync(at('scripts/start/client-program.sh'), 'utf8').replace('@NAME@', name)
  program(name, text + (await starterText('client-entry.cjs')))
}
// A daemon that stays small: what it makes for a build is soon gone, and every thread has a heap of its own. The flag for
// the nursery would go before what threads are given, so once the first heap is there it is taken back; and it is so before
// any code cache is looked at, which is good under the same flags only. And a daemon that optimizes later: a build runs
// most of its code a few times, and what a hundred builds made hot at once was a sixth of the daemon's processor time
// spent in compilers. Loops over many files are hot soon enough.
program(
  'isula-builder',
  `#!/usr/bin/env -S -u NODE_OPTIONS MALLOC_ARENA_MAX=2 node --max-semi-space-size=4 --v8-pool-size=1
'use strict'
process.title = 'isula-builder'
const { setFlagsFromString } = require('node:v8')
setFlagsFromString('--max-semi-space-size=0')
setFlagsFromString('--interrupt-budget=600000')
require('../dist/daemon/main.cjs')
`,
)
if (!isQuick && process.getuid?.() === 0) await trainDaemon()

/** What starts of the client need, compiled ahead. */
async function trainClient() {
  const place = mkdtempSync(join(tmpdir(), 'isula-build-'))
  try {
    const answers = join(place, 'answers.cjs')
    await build({ ...common, entryPoints: [at('scripts/start/answers.ts')], outfile: answers, write: true })
    execFileSync(process.execPath, [at('scripts/start/train-client.cjs'), at('dist/client/main'), answers], {
      cwd: place,
      env: {},
      stdio: 'pipe',
      timeout: 60_000,
    })
  } finally {
    rmSync(place, { recursive: true, force: true })
  }
}

/**
 * What starts of the daemon need: compiled and saved by a daemon that starts and builds an image. Whoever cannot start
 * one has it done by the first start.
 */
async function trainDaemon() {
  const { startDaemon } = await import('./lib/daemon.mjs')
  const directory = mkdtempSync(join(tmpdir(), 'isula-build-'))
  try {
    // The first saves what a start alone needs, and no more has to be loaded by every other; the second has threads.
    const first = await startDaemon({ directory })
    await first.kill()
    const daemon = await startDaemon({ directory })
    const context = join(directory, 'context')
    mkdirSync(context)
    writeFileSync(join(context, 'Dockerfile'), 'FROM scratch\nCOPY Dockerfile /\n')
    daemon.image(['build', '-q', '-t', 'trained', context])
    daemon.image(['images'])
    daemon.image(['rm', 'trained'])
    // Threads are ended without being asked, so they save when their start is over.
    await new Promise((resolve) => setTimeout(resolve, 3500))
    await daemon.stop()
  } catch (error) {
    console.warn(`the daemon starts without a code cache at first: ${error.message}`)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function program(name, text) {
  const file = at('bin', name)
  writeFileSync(file, text)
  chmodSync(file, 0o755)
}
