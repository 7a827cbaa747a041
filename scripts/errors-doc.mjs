// Prints docs/errors.md from the catalogue.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { transformSync } from 'esbuild'
import { root } from './lib/setup.mjs'

// From the source: what is compiled may be older.
const source = readFileSync(join(root, 'packages/shared/src/errors/codes.ts'), 'utf8')
const { code: script } = transformSync(source, { loader: 'ts', format: 'esm' })
const { codes } = await import(`data:text/javascript,${encodeURIComponent(script)}`)
const meaning = JSON.parse(readFileSync(join(root, 'docs/errors.json'), 'utf8'))
const lines = [
  '# Errors',
  '',
  'Made by `node scripts/errors-doc.mjs` from the catalogue `packages/shared/src/errors/codes.ts` and `docs/errors.json`.',
  '',
]
for (const [code, { grpc, exit, hint }] of Object.entries(codes)) {
  lines.push(`## ${code}`, '', meaning[code] ?? '', '')
  lines.push(
    `gRPC status ${grpc}, exit code ${code === 'ISB_STEP_FAILED' ? "the step's own" : exit}.${hint ? ` Hint: ${hint}` : ''}`,
    '',
  )
}
process.stdout.write(lines.join('\n'))
