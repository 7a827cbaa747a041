import type { PrunedEntry } from '@isula-build/shared/rpc/builder.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'
import { formatSize } from '@isula-build/shared/text/units.js'

const kinds: Readonly<Record<PrunedEntry['kind'], string>> = {
  LAYER: 'layer',
  CACHE_MOUNT: 'cache mount',
  KIND_UNSPECIFIED: 'entry',
  UNRECOGNIZED: 'entry',
}

/** One line for an entry that went, or would go: `Removed layer 0f3a…: 1.2 MB, last used 2 hours ago`. */
export function prunedLine(entry: PrunedEntry, dryRun: boolean, now: number): string {
  const verb = dryRun ? 'Would remove' : 'Removed'
  const name = displayLine(entry.name)
  const size = formatSize(entry.bytes, 1000)
  return `${verb} ${kinds[entry.kind]} ${name}: ${size}, last used ${age(now - entry.usedAt)} ago`
}

export interface PruneTotals {
  /** Bytes. */
  readonly freedBytes: number
  readonly downloads: number
  readonly records: number
}

/** What comes after the entries. */
export function totalLines(
  { freedBytes, downloads, records }: PruneTotals,
  dryRun: boolean,
): readonly string[] {
  const verb = dryRun ? 'Would remove' : 'Removed'
  return [
    ...(records === 0
      ? []
      : [`${verb} ${records} cache ${records === 1 ? 'record' : 'records'} of steps that stay on the disk`]),
    ...(downloads === 0 ? [] : [`${verb} unused downloads: ${formatSize(downloads, 1000)}`]),
    `${dryRun ? 'Would free' : 'Total freed'}: ${formatSize(freedBytes, 1000)}`,
  ]
}

const steps = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
] as const

/** Exact to the largest unit, as the times themselves are exact to an hour. */
function age(milliseconds: number): string {
  for (const [unit, length] of steps) {
    const count = Math.floor(milliseconds / length)
    if (count >= 1) return `${count} ${unit}${count === 1 ? '' : 's'}`
  }
  return 'less than a minute'
}
