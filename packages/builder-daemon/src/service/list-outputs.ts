import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { listOf } from '../core/image/list-document.js'
import { localEntry } from '../core/transfer/list-entries.js'
import type { ImageRecord } from '../ports/image-store.js'
import type { ManifestList } from '../ports/manifest-lists.js'
import type { BuildOutput, OutputStream, OutputTarget } from '../rpc/handlers.js'
import { type ArchiveDeps, withArchiveCall } from './archive-operations.js'
import type { FinishedBuild, SessionDeps } from './build-session.js'
import { type ListDeps, pushListTo } from './list-operations.js'
import { withTransfer } from './push-operations.js'
import { writeArchive } from './save-operations.js'

export interface ListOutputDeps {
  readonly archives: ArchiveDeps
  readonly pushes: ListDeps
}

type ListOutput = Exclude<BuildOutput, { readonly kind: 'docker-daemon' | 'isulad' }>

const forOnePlatform: Readonly<Record<string, string>> = {
  'docker-archive': 'a docker archive',
  rootfs: 'a root file system',
  'docker-daemon': 'docker',
  isulad: 'iSulad',
}

/** Before a build for several platforms begins. Fails with ISB_ARGUMENT_INVALID. */
export function requireListOutputs(outputs: readonly BuildOutput[]): void {
  for (const { kind } of outputs) {
    const what = forOnePlatform[kind]
    if (what === undefined) continue
    throw new BuilderError(
      'ISB_ARGUMENT_INVALID',
      `${what} takes the image of one platform, not of several`,
      {
        hint: 'Choose an OCI output or a registry, or build for one platform.',
      },
    )
  }
}

/** Stores the list under every name of the build, then makes its outputs and the iidfile. */
export function createListWriter(deps: ListOutputDeps): SessionDeps['writeList'] {
  const { lists, services } = deps.pushes
  return async (build) => {
    const { options, caller, lease, names, signal, progress } = build
    const records = [...new Map(build.records.map((record) => [record.id, record])).values()]
    const { format } = options
    const entries = await Promise.all(
      records.map((record) => localEntry(record, format, services, { lease, signal })),
    )
    const createdAt = services.clock.now()
    const list = listOf({ name: '', format, entries, annotations: {}, owner: caller.uid, createdAt })
    for (const name of names) await lists.put({ ...list, name }, 'replace')
    for (const [index, output] of options.outputs.entries()) {
      const done = await writeOutput(deps, build, { list, records }, output, index)
      progress.note({ kind: 'exported', at: services.clock.now(), output: done })
    }
    if (options.iidFile !== undefined) {
      await deps.archives.files.replace(caller, options.iidFile, Buffer.from(list.id), 0o644)
    }
    return { imageId: list.id, names }
  }
}

interface Built {
  readonly list: ManifestList
  readonly records: readonly ImageRecord[]
}

async function writeOutput(
  deps: ListOutputDeps,
  build: FinishedBuild,
  built: Built,
  output: BuildOutput,
  index: number,
): Promise<string> {
  requireListOutputs([output])
  if (output.kind === 'registry') return await push(deps, build, built, output)
  if (output.kind !== 'oci-archive') throw new Error(`${output.kind} was let through`)
  const { target, name } = output
  await writeIndex(deps, build, built, { target, name, index })
  return `${output.kind}:${target.kind === 'file' ? target.path : '-'}`
}

async function push(
  { pushes }: ListOutputDeps,
  { caller, client, options, signal, progress }: FinishedBuild,
  { list }: Built,
  { reference, name, push: shape }: Extract<ListOutput, { kind: 'registry' }>,
): Promise<string> {
  const onLog = (line: string): void => progress.noteLine(line)
  const call = { caller, client, signal, onLog, transfer: options.transfer }
  const pushed = await withTransfer(pushes, call, 'output', (within, transferring) =>
    pushListTo({ ...list, name }, reference, { ...shape, all: true }, within, transferring),
  )
  return `${pushed.reference}@${pushed.digest}`
}

async function writeIndex(
  { archives }: ListOutputDeps,
  { client, caller, signal }: FinishedBuild,
  { records }: Built,
  output: { readonly target: OutputTarget; readonly name: string | undefined; readonly index: number },
): Promise<void> {
  const { target, name, index } = output
  let stream: OutputStream | undefined
  const onData = (chunk: Uint8Array): Promise<void> => {
    stream ??= client.openOutput(index)
    return stream.write(chunk)
  }
  const indexes = [{ names: name === undefined ? [] : [name], records }]
  await withArchiveCall(archives, caller, 'output', { signal, onLog: () => undefined }, (call) =>
    writeArchive(archives, call, { images: [], indexes, format: 'oci', destination: target }, caller, onData),
  )
  await stream?.finish()
}
