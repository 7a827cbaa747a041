import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseDockerfile } from '@isula-build/shared/dockerfile/parser.js'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { renderable, renderError } from '@isula-build/shared/errors/render.js'
import { expect, test } from 'vitest'

/**
 * test/golden/dockerfile/<case>/{Dockerfile,expected.json|expected.txt}: the tree of a file that parses, the error as
 * shown of one that does not. ISULA_UPDATE_GOLDEN=1 rewrites what is expected.
 */
const root = fileURLToPath(new URL('./golden/dockerfile/', import.meta.url))
const update = process.env['ISULA_UPDATE_GOLDEN'] === '1'

for (const name of readdirSync(root).sort()) {
  test(`parses ${name} as recorded`, () => {
    const directory = join(root, name)
    const { file, text } = outcome(readFileSync(join(directory, 'Dockerfile')))
    if (update) writeFileSync(join(directory, file), text)
    expect(readdirSync(directory).sort()).toEqual(['Dockerfile', file])
    expect(text).toBe(readFileSync(join(directory, file), 'utf8'))
  })
}

function outcome(source: Uint8Array): { readonly file: string; readonly text: string } {
  try {
    const { text: _, ...tree } = parseDockerfile(source, 'Dockerfile')
    return { file: 'expected.json', text: `${JSON.stringify(tree, null, 2)}\n` }
  } catch (error) {
    if (!isBuilderError(error)) throw error
    const lines = renderError(renderable(error), { color: false, width: 80 })
    return { file: 'expected.txt', text: `${error.code}\n${lines.join('\n')}\n` }
  }
}
