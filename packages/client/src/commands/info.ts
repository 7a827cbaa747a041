import { builderService } from '@isula-build/shared/rpc/builder.js'
import { formatSize } from '@isula-build/shared/text/units.js'
import type { Invocation } from '../cli/command.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'

export async function runInfo({ flags }: Invocation): Promise<number> {
  const verbose = flags.bool('verbose')
  const info = await withConnection(flags, (connection) => connection.unary(builderService.Info, { verbose }))
  const size = (bytes: number): string =>
    flags.bool('human-readable') ? formatSize(bytes, 1000) : String(bytes)
  section('General:', [
    ['MemTotal:', size(info.memTotal)],
    ['MemFree:', size(info.memFree)],
    ['SwapTotal:', size(info.swapTotal)],
    ['SwapFree:', size(info.swapFree)],
    ['OCI Runtime:', info.runtime],
    ['DataRoot:', info.dataRoot],
    ['RunRoot:', info.runRoot],
    ['Builders:', String(info.builds)],
    ['Goroutines:', String(info.threads)],
    ['Experimental:', String(info.experimental)],
  ])
  section('Store:', [
    ['Storage Driver:', info.storageDriver],
    ['Backing Filesystem:', info.backingFilesystem],
  ])
  printLine('Registry:')
  list('Search Registries:', info.searchRegistries)
  list('Insecure Registries:', info.insecureRegistries)
  const { memory } = info
  if (verbose && memory !== undefined) {
    section('Runtime:', [
      ['MemSys:', size(memory.system)],
      ['HeapSys:', size(memory.heapSystem)],
      ['HeapAlloc:', size(memory.heapAllocated)],
      ['MemHeapInUse:', size(memory.heapInUse)],
      ['MemHeapIdle:', size(memory.heapIdle)],
      ['MemHeapReleased:', size(memory.heapReleased)],
    ])
  }
  return 0
}

function section(title: string, rows: readonly (readonly [string, string])[]): void {
  printLine(title)
  const width = Math.max(...rows.map(([label]) => label.length))
  for (const [label, value] of rows) printLine(`  ${label.padEnd(width)} ${value}`)
}

function list(title: string, items: readonly string[]): void {
  printLine(`  ${title}`)
  for (const item of items) printLine(`    ${item}`)
}
