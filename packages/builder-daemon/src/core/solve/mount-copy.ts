import type { ContextTree } from '../../ports/contexts.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { CopyParams } from '../../ports/layer-worker.js'
import type { MountSource } from '../plan/plan.js'
import { type BuildEnvironment, lowerDirectories } from './environment.js'
import { parentSnapshot } from './layer-result.js'
import type { MountsOf } from './run-mounts.js'

export interface MountPlace {
  readonly source: string
  readonly destination: string
  readonly upper: string
}

/** Copies what lies at `source` of a stage or a context into a directory; `destination` '' takes its content only. */
export async function mountCopy(
  { environment, results, signal }: MountsOf,
  from: MountSource,
  place: MountPlace,
): Promise<CopyParams> {
  if (from.kind === 'context')
    return treeCopy(await environment.contexts.get(from.context, signal), place, true)
  return stackCopy(environment, parentSnapshot(from.vertex, results).layers, place)
}

/** The same from a stack of layers. */
export function stackCopy(
  { ports }: BuildEnvironment,
  stack: readonly LayerId[],
  place: MountPlace,
): CopyParams {
  const root = { access: 'layers' as const, lowers: lowerDirectories(ports, stack) }
  return treeCopy({ root, ignore: [], ignoreFile: undefined }, place, false)
}

function treeCopy(
  tree: Omit<ContextTree, 'identity'>,
  { source, destination, upper }: MountPlace,
  isContext: boolean,
): CopyParams {
  return {
    upper,
    lowers: [],
    instruction: 'COPY',
    inputs: [
      {
        kind: 'tree',
        root: tree.root,
        pattern: source === '' ? '.' : source,
        unpack: false,
        ignore: tree.ignore,
        ignoreFile: tree.ignoreFile,
        isContext,
      },
    ],
    destination,
    intoDirectory: destination === '',
    chown: undefined,
    chmod: undefined,
    link: false,
    parents: false,
    excludes: [],
    fixedTime: undefined,
  }
}
