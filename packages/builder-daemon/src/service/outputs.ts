import type { BuildProgress } from '../core/build/progress.js'
import { loadIntoDocker } from '../export/engines/docker-daemon.js'
import { type IsuladEngine, loadIntoIsulad } from '../export/engines/isulad.js'
import { writeRootfs } from '../export/rootfs.js'
import { saveArchive } from '../export/save.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { BuildClient, BuildOptions, BuildOutput, OutputStream, OutputTarget } from '../rpc/handlers.js'
import { type ArchiveCall, type ArchiveDeps, withArchiveCall } from './archive-operations.js'
import { requireEngine } from './engine-rights.js'
import { type PushDeps, pushOutput } from './push-operations.js'
import { streamOutput, writeArchive, writeNewFile } from './save-operations.js'

export interface OutputDeps {
  readonly archives: ArchiveDeps
  readonly pushes: PushDeps
  readonly engines: Engines
  readonly clock: Clock
}

/** Engines of this machine, for clients that leave them to the daemon. */
export interface Engines {
  readonly dockerSocket: string
  /** Only to see who may use it: `isula` is what speaks to it. */
  readonly isulaSocket: string
  readonly isulad: IsuladEngine
}

export interface OutputCall {
  readonly options: BuildOptions
  readonly client: BuildClient
  readonly caller: Caller
  readonly record: ImageRecord
  readonly progress: BuildProgress
  readonly signal: AbortSignal
}

type FileOutput = Extract<BuildOutput, { readonly target: OutputTarget }>
type EngineOutput = Extract<BuildOutput, { readonly kind: 'docker-daemon' | 'isulad' }>

/** Writes what `-o` asked for, one after the other, then the iidfile. */
export function createOutputWriter(deps: OutputDeps): (call: OutputCall) => Promise<void> {
  return async (call) => {
    const { options, caller, record, progress } = call
    for (const [index, output] of options.outputs.entries()) {
      const place = await writeOutput(deps, call, output, index)
      progress.note({ kind: 'exported', at: deps.clock.now(), output: place })
    }
    if (options.iidFile !== undefined) {
      await deps.archives.files.replace(caller, options.iidFile, Buffer.from(`${record.id}`), 0o644)
    }
  }
}

/** Gives what was written, for the user; `-` is with whoever took the stream. */
async function writeOutput(
  deps: OutputDeps,
  call: OutputCall,
  output: BuildOutput,
  index: number,
): Promise<string> {
  switch (output.kind) {
    case 'docker-archive':
    case 'oci-archive':
    case 'rootfs':
      await writeFiles(deps.archives, call, output, index)
      return `${output.kind}:${output.target.kind === 'file' ? output.target.path : '-'}`
    case 'registry': {
      const { client, caller, record, options, progress, signal } = call
      const pushed = await pushOutput(deps.pushes, record, output, {
        ...{ caller, client, signal, transfer: options.transfer },
        onLog: (line) => progress.noteLine(line),
      })
      return `${pushed.reference}@${pushed.digest}`
    }
    case 'docker-daemon':
    case 'isulad':
      await loadIntoEngine(deps, call, output)
      return `${output.kind}:${output.name}`
  }
}

async function writeFiles(
  archives: ArchiveDeps,
  { client, caller, record, signal }: OutputCall,
  { kind, target, name }: FileOutput,
  index: number,
): Promise<void> {
  let stream: OutputStream | undefined
  const onData = (chunk: Uint8Array): Promise<void> => {
    stream ??= client.openOutput(index)
    return stream.write(chunk)
  }
  await withArchiveCall(archives, caller, 'output', quiet(signal), async (call) => {
    if (kind !== 'rootfs') {
      const images = [{ record, names: name === undefined ? [] : [name] }]
      const format = kind === 'oci-archive' ? 'oci' : 'docker'
      await writeArchive(archives, call, { images, format, destination: target }, caller, onData)
      return
    }
    const write = (fd: number) => writeRootfs(record, fd, call.services, call.options)
    if (target.kind === 'stream') await streamOutput(call, write, onData)
    else await writeNewFile(archives.files, caller, target, signal, write)
  })
  await stream?.finish()
}

/** The rights are looked at here and not when the build begins: it may take long, and what counts is now. */
async function loadIntoEngine(
  { archives, engines }: OutputDeps,
  { options, caller, record, progress, signal }: OutputCall,
  { kind, name }: EngineOutput,
): Promise<void> {
  await requireAccess(engines, kind, caller)
  await withArchiveCall(archives, caller, 'output', quiet(signal), async (call) => {
    const write = (fd: number): Promise<void> => writeDockerArchive(call, record, name, fd)
    if (kind === 'isulad') {
      await loadIntoIsulad(engines.isulad, options.id ?? progress.buildId, write, signal)
      return
    }
    const load = loadIntoDocker(engines.dockerSocket, name)
    const abort = (): void => load.abort()
    signal.addEventListener('abort', abort, { once: true })
    try {
      await streamOutput(call, write, (chunk) => load.write(chunk))
      await load.finish()
    } finally {
      signal.removeEventListener('abort', abort)
      load.abort()
    }
  })
}

async function requireAccess(
  { dockerSocket, isulaSocket }: Engines,
  kind: EngineOutput['kind'],
  caller: Caller,
): Promise<void> {
  if (kind === 'docker-daemon') await requireEngine('dockerd', dockerSocket, caller)
  else await requireEngine('iSulad', isulaSocket, caller)
}

async function writeDockerArchive(
  call: ArchiveCall,
  record: ImageRecord,
  name: string,
  fd: number,
): Promise<void> {
  const images = [{ record, names: [name] }]
  await saveArchive({ images, format: 'docker', fd }, call.services, call.options)
}

function quiet(signal: AbortSignal) {
  return { signal, onLog: () => undefined }
}
