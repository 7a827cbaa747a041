import type { BuildProgress } from '../core/build/progress.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { BuildClient, BuildOptions, OutputStream } from '../rpc/handlers.js'
import { type ArchiveDeps, withArchiveCall } from './archive-operations.js'
import { writeArchive } from './save-operations.js'

interface OutputCall {
  readonly options: BuildOptions
  readonly client: BuildClient
  readonly caller: Caller
  readonly record: ImageRecord
  readonly progress: BuildProgress
  readonly signal: AbortSignal
}

/** Writes what `-o` asked for, one after the other, then the iidfile. */
export function createOutputWriter(deps: ArchiveDeps, clock: Clock): (call: OutputCall) => Promise<void> {
  return async ({ options, client, caller, record, progress, signal }) => {
    for (const [index, output] of options.outputs.entries()) {
      const { kind, target, name } = output
      let stream: OutputStream | undefined
      const onData = (chunk: Uint8Array): Promise<void> => {
        stream ??= client.openOutput(index)
        return stream.write(chunk)
      }
      const images = [{ record, names: name === undefined ? [] : [name] }]
      const format = kind === 'oci-archive' ? ('oci' as const) : ('docker' as const)
      await withArchiveCall(deps, caller, 'output', { signal, onLog: () => undefined }, (call) =>
        writeArchive(deps, call, { images, format, destination: target }, caller, onData),
      )
      await stream?.finish()
      const where = target.kind === 'file' ? target.path : '-'
      progress.note({ kind: 'exported', at: clock.now(), output: `${kind}:${where}` })
    }
    if (options.iidFile !== undefined) {
      await deps.files.replace(caller, options.iidFile, Buffer.from(`${record.id}`), 0o644)
    }
  }
}
