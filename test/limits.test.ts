import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../', import.meta.url))
const read = (path: string): string => readFileSync(`${root}${path}`, 'utf8')

const daemon = 'packages/builder-daemon/src'
const shared = 'packages/shared/src'

/** Where docs/limits.md has its figures from: the constant, or the key of an object, in the order of the rows. */
const places: Readonly<Record<string, readonly (readonly [path: string, name: string])[]>> = {
  Dockerfiles: [
    [`${shared}/dockerfile/source-file.ts`, 'maxSourceBytes'],
    [`${shared}/dockerfile/parser.ts`, 'maxInstructions'],
    [`${daemon}/core/plan/draft.ts`, 'maxSteps'],
    [`${shared}/dockerfile/instruction-parser.ts`, 'maxStageName'],
    [`${daemon}/core/plan/stage-state.ts`, 'maxLabels'],
    [`${daemon}/core/plan/stage-state.ts`, 'maxVariables'],
    [`${shared}/dockerfile/word-pattern.ts`, 'maxExpansion'],
    [`${daemon}/core/plan/expansion.ts`, 'maxExpanded'],
    [`${shared}/dockerfile/words.ts`, 'maxDepth'],
    [`${daemon}/core/plan/from-copy.ts`, 'maxSources'],
    [`${daemon}/core/plan/from-run.ts`, 'maxMounts'],
    [`${daemon}/core/plan/from-meta.ts`, 'maxPorts'],
    [`${daemon}/core/plan/draft.ts`, 'maxEntries'],
    [`${daemon}/core/plan/draft.ts`, 'maxHistoryText'],
    [`${shared}/dockerfile/json-array.ts`, 'maxNesting'],
  ],
  Builds: [
    [`${daemon}/context/context-provider.ts`, 'ignoreFileLimit'],
    [`${daemon}/system/file-stat.ts`, 'maxNames'],
    [`${daemon}/layer/copy/upper-writer.ts`, 'longestPath'],
    [`${daemon}/layer/copy/source-walk.ts`, 'longestPath'],
    [`${daemon}/layer/copy/resolution.ts`, 'maximumLinks'],
    [`${daemon}/rpc/build-options.ts`, 'maxSecret'],
    [`${daemon}/layer/extract.ts`, 'contextLimit'],
    [`${daemon}/layer/copy/archive.ts`, 'archiveLimit'],
    [`${daemon}/compose.ts`, 'size'],
    [`${daemon}/core/images/image-limits.ts`, 'layers'],
    [`${daemon}/core/image/assemble.ts`, 'maxConfigSize'],
    [`${daemon}/runtime/spec.ts`, 'pidsLimit'],
  ],
  'Images from elsewhere': [
    [`${daemon}/export/archive-limits.ts`, 'archive'],
    [`${daemon}/export/archive-limits.ts`, 'importFile'],
    [`${daemon}/core/images/image-limits.ts`, 'layer'],
    [`${daemon}/layer/decompress/decompress.ts`, 'ratio'],
    [`${daemon}/layer/tar/merge.ts`, 'entries'],
    [`${daemon}/layer/tar/merge.ts`, 'pax'],
    [`${daemon}/layer/tar/merge.ts`, 'xattrs'],
    [`${daemon}/layer/tar/sparse.ts`, 'MAX_RUNS'],
    [`${daemon}/export/archive-limits.ts`, 'members'],
    [`${daemon}/core/images/image-limits.ts`, 'document'],
    [`${daemon}/core/image/manifest-document.ts`, 'maxManifests'],
    [`${daemon}/core/transfer/choose.ts`, 'maxImages'],
    [`${daemon}/core/transfer/document-budget.ts`, 'maxDocuments'],
    [`${daemon}/core/transfer/document-budget.ts`, 'maxBytes'],
    [`${daemon}/core/cache-exchange/document.ts`, 'document'],
    [`${daemon}/core/cache-exchange/document.ts`, 'steps'],
  ],
  Calls: [
    [`${daemon}/rpc/server.ts`, 'connections'],
    [`${daemon}/rpc/server.ts`, 'connectionsPerUid'],
    [`${daemon}/rpc/server.ts`, 'callsPerUid'],
    [`${daemon}/rpc/server.ts`, 'uploadsPerUid'],
    [`${daemon}/rpc/server.ts`, 'messageBytes'],
  ],
}

const units: Readonly<Record<string, number>> = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }
const words: Readonly<Record<string, number>> = { mebibyte: 2 ** 20, gibibyte: 2 ** 30 }

/** `25,000`, `4 MiB` or `200 : 1`. */
function documented(text: string): number {
  const [, digits = '', unit = ''] = /^([\d,]+)(?: (KiB|MiB|GiB|: 1))?$/.exec(text) ?? []
  return Number(digits.replaceAll(',', '') || Number.NaN) * (units[unit] ?? 1)
}

/** The one product, power or shift of numbers that the source gives this name. */
function inSource(path: string, name: string): number {
  const found = [...read(path).matchAll(new RegExp(`\\b${name}(?: =|:) ([\\da-z][\\w *<]*)`, 'g'))]
    .map(([, expression = '']) => evaluated(expression.trim()))
    .filter((value) => !Number.isNaN(value))
  if (found.length !== 1) throw new Error(`${path} has ${found.length} values of ${name}`)
  return found[0] ?? Number.NaN
}

function evaluated(expression: string): number {
  if (expression.includes(' * '))
    return expression
      .split(' * ')
      .map(evaluated)
      .reduce((a, b) => a * b)
  const [, base = '', power = ''] = /^(\S+) \*\* (\S+)$/.exec(expression) ?? []
  if (power !== '') return evaluated(base) ** evaluated(power)
  const [, left = '', shift = ''] = /^(\S+) << (\S+)$/.exec(expression) ?? []
  if (shift !== '') return evaluated(left) * 2 ** evaluated(shift)
  return words[expression] ?? Number(expression.replaceAll('_', ''))
}

describe('docs/limits.md', () => {
  const sections = read('docs/limits.md').split(/^## /m).slice(1)

  test('has the sections that are compared with the code', () => {
    expect(sections.map((text) => text.split('\n')[0])).toEqual(Object.keys(places))
  })

  test.each(Object.entries(places))('says of %s what the code says', (section, from) => {
    const text = sections.find((one) => one.startsWith(`${section}\n`)) ?? ''
    const rows = [...text.matchAll(/^\| (\S.*?) \| (.+) \|$/gm)].filter(([, limit]) => limit !== 'limit')
    expect(rows.map(([, limit = '', what]) => `${documented(limit)} ${what}`)).toEqual(
      rows.map(([, , what], index) => {
        const [path = '', name = ''] = from[index] ?? []
        return `${inSource(path, name)} ${what}`
      }),
    )
    expect(rows).toHaveLength(from.length)
  })
})
