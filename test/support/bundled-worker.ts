import { createHash, randomBytes } from 'node:crypto'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('../../', import.meta.url))

const bundled = new Map<string, Promise<URL>>()

/**
 * Bundles a TypeScript entry into a module that a worker thread or a child process can load; packages
 * stay outside. Gives its address; a test file that asks again gets the same one.
 */
export function bundleEntry(entry: string): Promise<URL> {
  const known = bundled.get(entry) ?? bundle(entry)
  bundled.set(entry, known)
  return known
}

async function bundle(entry: string): Promise<URL> {
  const directory = `${root}node_modules/.cache/isula-build-test`
  await mkdir(directory, { recursive: true })
  const { outputFiles } = await build({
    entryPoints: [`${root}${entry}`],
    outfile: `${directory}/bundle.mjs`,
    write: false,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'inline',
    external: ['better-sqlite3', 'koffi', 'pino', '@grpc/*', 'esbuild'],
    plugins: [
      {
        name: 'shared-sources',
        setup({ onResolve }) {
          onResolve({ filter: /^@isula-build\/shared\// }, ({ path }) => ({
            path: `${root}packages/shared/src/${path.slice('@isula-build/shared/'.length).replace(/\.js$/, '.ts')}`,
          }))
        },
      },
    ],
  })
  const bytes = outputFiles[0]?.contents
  if (bytes === undefined) throw new Error(`${entry}: nothing was bundled`)
  // Named by content, and moved into place, since several test files may bundle the same entry at once.
  const name = `${entry.replaceAll(/[^A-Za-z0-9]+/g, '-')}-${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}`
  const temporary = `${directory}/${randomBytes(8).toString('hex')}.tmp`
  await writeFile(temporary, bytes)
  await rename(temporary, `${directory}/${name}.mjs`)
  return new URL(`file://${directory}/${name}.mjs`)
}

export const databaseWorkerEntry = 'packages/builder-daemon/src/workers/database-worker.ts'
