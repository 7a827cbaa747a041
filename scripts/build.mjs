// Builds everything: type-checks, compiles and bundles, and leaves runnable programs in bin/.
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const at = (...parts) => join(root, ...parts)
const { version } = JSON.parse(readFileSync(at('package.json'), 'utf8'))

// `--no-types` leaves out the type check, for quick rounds of editing.
if (!process.argv.includes('--no-types')) {
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

const common = {
  plugins: [sharedSources],
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  minifySyntax: true,
  legalComments: 'none',
  logLevel: 'warning',
  // The sources are modules; bundled as CommonJS they start faster, and this is their own address.
  banner: { js: 'const __moduleUrl = require("node:url").pathToFileURL(__filename).href;' },
  define: {
    'import.meta.url': '__moduleUrl',
    BUILD_VERSION: JSON.stringify(version),
    BUILD_COMMIT: JSON.stringify(commit()),
    BUILD_TIME: JSON.stringify(new Date().toISOString()),
  },
  outExtension: { '.js': '.cjs' },
}

const daemon = 'packages/builder-daemon/src'
await build({
  ...common,
  entryPoints: {
    main: at(daemon, 'main.ts'),
    'layer-worker': at(daemon, 'workers/layer-worker.ts'),
    'database-worker': at(daemon, 'workers/database-worker.ts'),
    'transfer-worker': at(daemon, 'workers/transfer-worker.ts'),
    'identity-helper': at(daemon, 'workers/identity-helper.ts'),
    launcher: at(daemon, 'workers/launcher.ts'),
  },
  outdir: at('dist/daemon'),
  external: ['koffi', 'better-sqlite3'],
})
await build({
  ...common,
  entryPoints: { main: at('packages/client/src/main.ts') },
  outdir: at('dist/client'),
})

mkdirSync(at('bin'), { recursive: true })
writeFileSync(at('bin/package.json'), '{ "type": "commonjs" }\n')
// Extra certificates cost every start of Node 40 ms, and the client talks to a local socket only.
program('isula-build', '-u NODE_EXTRA_CA_CERTS -u NODE_OPTIONS', 'client', 'isula-build')
program('ctr-img', '-u NODE_EXTRA_CA_CERTS -u NODE_OPTIONS', 'client', 'ctr-img')
program('isula-builder', '-u NODE_OPTIONS', 'daemon', 'isula-builder')

function program(name, environment, bundle, title) {
  const file = at('bin', name)
  writeFileSync(
    file,
    `#!/usr/bin/env -S ${environment} node
'use strict'
process.title = '${title}'
require('../dist/${bundle}/main.cjs')
`,
  )
  chmodSync(file, 0o755)
}
