import { cpus, release } from 'node:os'

const median = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b)
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2
}

/** Medians in seconds, with the ratio to the best of the others, as a Markdown table. */
export function table(results, { runs, durability }) {
  const of = (key) => [...new Set(results.map((result) => result[key]))]
  const peers = of('peer').filter((peer) => peer !== 'floor' && peer !== 'project')
  const value = (workload, peer) => {
    const own = results.filter((one) => one.workload === workload && one.peer === peer)
    return own.length === 0 ? undefined : median(own.map(({ seconds }) => seconds))
  }
  const shown = (seconds) => (seconds === undefined ? '–' : seconds.toFixed(seconds < 1 ? 3 : 2))
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
