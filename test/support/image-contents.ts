import { createHash } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { runTool, type Tool } from './judges.js'

/** What makes an image the same image, whatever it is packed in. */
export interface ImageContent {
  /** SHA-256 of the config, hex. */
  readonly id: string
  readonly diffIds: readonly string[]
}

interface Config {
  readonly rootfs: { readonly diff_ids: readonly string[] }
}

const sha256 = (bytes: string | Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

export function contentOfConfig(config: string | Uint8Array): ImageContent {
  return {
    id: sha256(config),
    diffIds: (JSON.parse(config.toString()) as Config).rootfs.diff_ids ?? [],
  }
}

const sh = (script: string, ...args: readonly string[]): string =>
  runTool('sh', ['-ec', script, 'sh', ...args])

/** Images by name of a docker archive, '' for none. Every layer is hashed. */
export function contentOfArchive(path: string): ReadonlyMap<string, ImageContent> {
  const read = (name: string): Buffer =>
    Buffer.from(sh('tar -xOf "$1" "$2" | base64 -w0', path, name), 'base64')
  const manifest = JSON.parse(read('manifest.json').toString()) as readonly {
    readonly Config: string
    readonly RepoTags: readonly string[] | null
    readonly Layers: readonly string[]
  }[]
  const held = new Map<string, ImageContent>()
  for (const { Config, RepoTags, Layers } of manifest) {
    const content = contentOfConfig(read(Config))
    const hashed = (Layers ?? []).map(
      (layer) => `sha256:${sh('tar -xOf "$1" "$2" | sha256sum', path, layer).slice(0, 64)}`,
    )
    expect(hashed).toEqual(content.diffIds)
    for (const name of RepoTags?.length ? RepoTags : ['']) held.set(name, content)
  }
  return held
}

export interface PackedContent extends ImageContent {
  /** Of the manifest, its config and its layers. */
  readonly mediaTypes: readonly string[]
}

/** The image as skopeo fetches it to the new directory `copy`, byte by byte. Every layer is unpacked and hashed. */
export function contentAtRegistry(skopeo: Tool, reference: string, copy: string): PackedContent {
  skopeo('copy', '-q', '--src-tls-verify=false', `docker://${reference}`, `dir:${copy}`)
  const manifest = JSON.parse(readFileSync(join(copy, 'manifest.json'), 'utf8')) as {
    readonly mediaType?: string
    readonly config: { readonly mediaType: string; readonly digest: string }
    readonly layers: readonly { readonly mediaType: string; readonly digest: string }[]
  }
  const blob = (digest: string): string => join(copy, digest.slice('sha256:'.length))
  const content = contentOfConfig(readFileSync(blob(manifest.config.digest)))
  expect(`sha256:${content.id}`).toBe(manifest.config.digest)
  const hashed = manifest.layers.map(({ digest }) => `sha256:${hashOfLayer(blob(digest))}`)
  expect(hashed).toEqual(content.diffIds)
  rmSync(copy, { recursive: true })
  const types = [manifest.config, ...manifest.layers].map(({ mediaType }) => mediaType)
  return { ...content, mediaTypes: [manifest.mediaType ?? '', ...types] }
}

/** Of what is in the file, whether it is compressed or not. */
function hashOfLayer(path: string): string {
  const magic = readFileSync(path).subarray(0, 4).toString('hex')
  const program = magic.startsWith('1f8b') ? 'gzip -dc' : magic === '28b52ffd' ? 'zstd -dcq' : 'cat'
  return sh(`${program} <"$1" | sha256sum`, path).slice(0, 64)
}
