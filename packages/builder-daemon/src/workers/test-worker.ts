import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'esbuild'

const source = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const shared = source('../../../shared/src')

/** Bundles the layer worker into a directory, for tests that run threads from sources. */
export async function bundleLayerWorker(directory: string): Promise<URL> {
  const outfile = join(directory, 'layer-worker.cjs')
  const koffi = createRequire(import.meta.url).resolve('koffi')
  await build({
    ...{ entryPoints: [source('./layer-worker.ts')], outfile, bundle: true, platform: 'node', format: 'cjs' },
    target: 'node20',
    plugins: [
      {
        name: 'workspace',
        setup({ onResolve }) {
          onResolve({ filter: /^koffi$/ }, () => ({ path: koffi, external: true }))
          onResolve({ filter: /^@isula-build\/shared\// }, ({ path }) => ({
            path: join(shared, path.slice('@isula-build/shared/'.length).replace(/\.js$/, '.ts')),
          }))
        },
      },
    ],
    logLevel: 'error',
  })
  return pathToFileURL(outfile)
}
