import type { SourceRoot } from './layer-worker.js'

/** A build context ready for the layer workers. */
export interface ContextTree {
  readonly root: SourceRoot
  /** Lines of the ignore file that applies, [] when there is none. */
  readonly ignore: readonly string[]
  readonly ignoreFile: string | undefined
  /** Of the directory: the same as long as it is the same one, other than that of any other. */
  readonly identity: string
}

export interface ContextProvider extends AsyncDisposable {
  /** '' is the build context; opened on first use. Fails with ISB_CONTEXT_INVALID. */
  get(name: string, signal: AbortSignal): Promise<ContextTree>
}
