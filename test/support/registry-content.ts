import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { type Connection, connect } from '../../packages/client/src/connect.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { readDockerArchive } from './client-bench.js'
import type { AddedImage, ImageToAdd } from './fake-registry/images.js'
import type { FakeRegistry } from './fake-registry.js'
import type { TransferDaemon } from './transfer-daemon.js'

export interface Target {
  /** `host/team/app:1` */
  readonly name: string
  readonly image: AddedImage
}

/** An image in the registry whose layers nobody has seen before. */
export function newImage(
  registry: FakeRegistry,
  options: Partial<ImageToAdd> & {
    readonly repository?: string
    readonly tag?: string
    /** Bytes of each layer. */
    readonly sizes?: readonly number[]
  } = {},
): Target {
  const { repository = 'team/app', tag = '1', sizes = [40_000, 300_000], ...rest } = options
  const layers = sizes.map((size, index) => ({ [`data-${index}`]: randomBytes(size) }))
  const image = registry.addImage(repository, tag, { layers, ...rest })
  return { name: `${registry.host}/${repository}:${tag}`, image }
}

/** Index of the layer that `newImage` makes last, the biggest. */
export function lastLayer({ image }: Target): AddedImage['layers'][number] {
  const layer = image.layers.at(-1)
  if (layer === undefined) throw new Error('an image without layers')
  return layer
}

/** Requests for this blob. */
export const blobPath = (digest: string): RegExp => new RegExp(`/blobs/${digest}$`)

/** The image is there under its name, and what it holds is what the registry has. */
export async function expectPulled(daemon: TransferDaemon, registry: FakeRegistry, { name, image }: Target) {
  const archive = join(daemon.bench.work, 'saved.tar')
  rmSync(archive, { force: true })
  await daemon.ok('save', '-f', 'docker', '-o', archive, name)
  const { manifest } = readDockerArchive(archive)
  const repository = name.slice(registry.host.length + 1).replace(/:[^:]*$/, '')
  const config = JSON.parse(registry.storage.read(repository, image.config.digest).toString())
  const member = (path: string): Buffer =>
    execFileSync('tar', ['-xOf', archive, path], { maxBuffer: 1 << 30 })
  const layers = (manifest[0]?.Layers ?? []).map((layer) => digestOf(member(layer)))
  expect(layers).toEqual(config.rootfs.diff_ids)
  expect(member(manifest[0]?.Config ?? '').toString()).toBe(
    registry.storage.read(repository, image.config.digest).toString(),
  )
  rmSync(archive)
}

/** Bytes that lie about from downloads that were not finished. */
export function downloadedBytes({ bench }: TransferDaemon): number {
  const directory = join(bench.data, 'downloads')
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0)
}

/** What somebody who was refused may leave: no name, nothing in the store, and bytes only if they can be used. */
export async function expectNothingNamed(daemon: TransferDaemon): Promise<void> {
  expect(await daemon.names()).toEqual([])
  await daemon.bench.expectSound()
}

export interface DirectPull {
  readonly ended: Promise<string>
  cancel(): void
}

/** A pull from this process; resolves to the ID of the image. */
export function pullOver(connection: Connection, reference: string): DirectPull {
  const call = connection.duplex(builderService.Pull)
  const follow = async (): Promise<string> => {
    let id = ''
    const options = { reference, policy: 'always', platforms: [], allPlatforms: false, transfer: {} }
    await call.write({ payload: { case: 'options', value: options } })
    for await (const { event } of call.responses) {
      if (event?.case === 'stored') id = event.value.id
      if (event?.case === 'needCredentials') {
        const value = { question: event.value.question, explicit: false }
        await call.write({ payload: { case: 'credentials', value } })
      }
    }
    call.end()
    return id
  }
  return { ended: follow(), cancel: () => call.cancel() }
}

export async function withConnection<T>(
  { bench }: TransferDaemon,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await connect(bench.daemon.host, '10s')
  try {
    return await work(connection)
  } finally {
    connection.close()
  }
}

/** Milliseconds between the beginnings of these requests. */
export function pauses(requests: readonly { readonly began: number }[]): readonly number[] {
  return requests.slice(1).map(({ began }, index) => began - (requests[index]?.began ?? began))
}

/** Whole text of a file, '' when it is not there. */
export function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
