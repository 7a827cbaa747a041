import { cpus, release } from 'node:os'

const median = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b)
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2
}

const shown = (seconds) =>
  seconds === undefined ? '–' : seconds.toFixed(seconds < 0.01 ? 5 : seconds < 1 ? 3 : 2)

/** How things grow: for each part and peer a Markdown table, a column for every size. */
export function growthTables(results) {
  const distinct = (values) => [...new Set(values)]
  const grown = results.filter(({ growth }) => growth !== undefined)
  const parts = distinct(grown.map(({ peer, growth }) => `${peer}, ${growth.part}`))
  return parts.map((part) => {
    const own = grown.filter(({ peer, growth }) => `${peer}, ${growth.part}` === part)
    const sizes = distinct(own.map(({ growth }) => growth.size))
    const cell = (what, size) => {
      const found = own.find(({ growth }) => growth.what === what && growth.size === size)
      return shown(found?.seconds) + (found?.note === undefined ? '' : ` (${found.note})`)
    }
    return [
      `| ${[part, ...sizes.map((size) => size.toLocaleString('en'))].join(' | ')} |`,
      `|${['', ...sizes].map(() => '---').join('|')}|`,
      ...distinct(own.map(({ growth }) => growth.what)).map(
        (what) => `| ${[what, ...sizes.map((size) => cell(what, size))].join(' | ')} |`,
      ),
    ].join('\n')
  })
}

/** Medians in seconds, with the ratio to the best of the others, as a Markdown table. */
export function table(all, { runs, durability }) {
  const results = all.filter(({ growth }) => growth === undefined)
  const of = (key) => [...new Set(results.map((result) => result[key]))]
  const peers = of('peer').filter((peer) => peer !== 'floor' && peer !== 'project')
  const value = (workload, peer) => {
    const own = results.filter((one) => one.workload === workload && one.peer === peer)
    return own.length === 0 ? undefined : median(own.map(({ seconds }) => seconds))
  }
  const rows = of('workload').map((workload) => {
    const others = peers.map((peer) => value(workload, peer))
    const best = Math.min(...others.filter((seconds) => seconds !== undefined))
    const ours = value(workload, 'project')
    const ratio = ours === undefined || !Number.isFinite(best) ? '–' : (ours / best).toFixed(2)
    return `| ${[workload, shown(ours), ratio, ...others.map(shown), shown(value(workload, 'floor'))].join(' | ')} |`
  })
  const head = ['workload', 'project (s)', 'ratio to the best', ...peers, 'floor']
  return [
    `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, Linux ${release()}, Node.js ${process.versions.node}, durability ${durability}, median of ${runs}`,
    '',
    `| ${head.join(' | ')} |`,
    `|${head.map(() => '---').join('|')}|`,
    ...rows,
  ].join('\n')
}
