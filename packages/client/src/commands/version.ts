import { buildInfo } from '@isula-build/shared/build-info.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Invocation } from '../cli/command.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'

interface ShownVersion {
  readonly version: string
  readonly runtime: string
  readonly commit: string
  readonly builtAt: number
  readonly platform: string
}

/** The client's own part is shown even when no daemon answers. */
export async function runVersion({ flags }: Invocation): Promise<number> {
  show('Client:', {
    version: buildInfo.version,
    runtime: `node ${process.version}`,
    commit: buildInfo.commit,
    builtAt: buildInfo.builtAt,
    platform: `linux/${process.arch === 'x64' ? 'amd64' : process.arch}`,
  })
  printLine('')
  const server = await withConnection(flags, (connection) => connection.unary(builderService.Version, {}))
  show('Server:', { ...server, runtime: server.runtimeVersion, commit: server.gitCommit })
  return 0
}

function show(title: string, version: ShownVersion): void {
  printLine(title)
  const rows = [
    ['Version:', version.version],
    ['Go Version:', version.runtime],
    ['Git Commit:', version.commit],
    ['Built:', ansiTime(version.builtAt)],
    ['OS/Arch:', version.platform],
  ]
  for (const [label = '', value] of rows) printLine(`  ${label.padEnd(14)} ${value}`)
}

/** C's asctime: `Tue Mar 30 11:08:00 2021`, in UTC. */
function ansiTime(milliseconds: number): string {
  const [day = '', date = '', month = '', year = '', time = ''] = new Date(milliseconds)
    .toUTCString()
    .split(' ')
  return `${day.replace(',', '')} ${month} ${date.replace(/^0/, ' ')} ${time} ${year}`
}
