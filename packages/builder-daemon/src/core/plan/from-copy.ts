import * as posix from 'node:path/posix'
import type { CopyInstruction } from '@isula-build/shared/dockerfile/instructions.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText, rootedPath } from '@isula-build/shared/oci/byte-path.js'
import { parseDigest } from '@isula-build/shared/oci/digest.js'
import { located } from './expansion.js'
import { checkMode, checkOwner } from './mode.js'
import type { CopyInput, CopyVertex } from './plan.js'
import { expand, type Site, type StageContext, stack, vertexBase, withoutNul } from './stage-context.js'
import { workingDirectory } from './stage-state.js'

/** Sources of one instruction: a thread looks for them one after the other. */
const maxSources = 5000

export function planCopy(context: StageContext, instruction: CopyInstruction, site: Site): void {
  const { state } = context
  if (instruction.sources.length > maxSources) throw tooManySources(instruction, site)
  const name = instruction.kind === 'add' ? 'ADD' : 'COPY'
  const chown = flagValue(context, instruction.chown, site, checkOwner)
  const chmod = flagValue(context, instruction.chmod, site, checkMode)
  const sources = instruction.sources.map((source) => ({
    written: source,
    path: located(
      () => site.at(source),
      () => withoutNul(expand(context, source), 'a source'),
    ),
  }))
  const checksum = sourceChecksum(
    context,
    instruction,
    sources.map(({ path }) => path),
    site,
  )
  const destination = located(
    () => site.at(instruction.destination),
    () => withoutNul(expand(context, instruction.destination), 'the destination'),
  )
  const inputs: readonly CopyInput[] = [
    ...sources.map(({ written, path }) =>
      located(
        () => site.at(written),
        () => sourceInput(context, instruction, path, { checksum, site }),
      ),
    ),
    ...inlineInputs(context, instruction, site),
  ]
  const intoDirectory = namesDirectory(destination)
  const rooted = rootedPath(bytesOfText(posix.resolve('/', workingDirectory(state), destination)))
  const vertex: CopyVertex = {
    kind: 'copy',
    ...vertexBase(context, site),
    instruction: name,
    parent: state.vertex,
    inputs: withoutRepeats(instruction, inputs, intoDirectory || rooted === ''),
    destination: rooted,
    intoDirectory: intoDirectory || rooted === '',
    chown,
    chmod,
    link: instruction.link,
    parents: instruction.parents,
    excludes: instruction.excludes.map(bytesOfText),
  }
  const words = [
    name,
    ...(instruction.parents ? ['--parents'] : []),
    ...(chown === undefined ? [] : [`--chown=${chown}`]),
    ...(chmod === undefined ? [] : [`--chmod=${chmod}`]),
    ...sources.map(({ path }) => withoutCredentials(path)),
    ...instruction.heredocs.map((heredoc) => `<<${heredoc.name}`),
    destination,
  ]
  stack(context, vertex, `${words.join(' ')} # buildkit`)
}

/**
 * What is copied twice from the same place lies there as its last copy left it, whatever came between. Not so where
 * archives are unpacked, over links that others brought; where a download may give something else each time; where a
 * directory that only leads to what is selected is as the first source had it; and where the first source decides whether
 * the destination becomes a directory: there only neighbours are one.
 */
function withoutRepeats(
  { parents, excludes }: CopyInstruction,
  inputs: readonly CopyInput[],
  intoDirectory: boolean,
): readonly CopyInput[] {
  if (parents || excludes.length > 0) return inputs
  const places = inputs.map((input) => {
    if (input.kind === 'inline' || input.kind === 'url' || input.unpack) return undefined
    return JSON.stringify([input.kind === 'context' ? input.context : input.vertex, input.pattern])
  })
  const last = new Map(places.map((place, i) => [place, i]))
  return inputs.filter((_, i) => {
    const place = places[i]
    if (place === undefined) return true
    return intoDirectory ? last.get(place) === i : place !== places[i + 1]
  })
}

function tooManySources({ kind, sources }: CopyInstruction, site: Site): BuilderError {
  return new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `${kind.toUpperCase()} has ${sources.length} sources, at most ${maxSources} are allowed`,
    { source: site.source, hint: 'Name their directories, or use wildcards.' },
  )
}

/** Ends as a directory does, or is one by nature: `.`, `..` and the root. */
function namesDirectory(path: string): boolean {
  return path === '' || /(?:^|\/)\.{0,2}$/.test(path)
}

function flagValue(
  context: StageContext,
  written: string | undefined,
  site: Site,
  check: (value: string) => void,
): string | undefined {
  if (written === undefined || written === '') return undefined
  return located(
    () => site.at(written),
    () => {
      const value = expand(context, written)
      if (value === '') return undefined
      check(value)
      return value
    },
  )
}

function sourceInput(
  context: StageContext,
  instruction: CopyInstruction,
  path: string,
  more: { readonly checksum: string | undefined; readonly site: Site },
): CopyInput {
  const isAdd = instruction.kind === 'add'
  if (isGitSource(path)) {
    throw new BuilderError(
      'ISB_UNSUPPORTED',
      `${JSON.stringify(withoutCredentials(path))} is a git repository, which cannot be added`,
      {
        hint: 'Clone it into the build context first, or in a RUN of an earlier stage.',
      },
    )
  }
  if (isHttpSource(path)) {
    if (isAdd) return { kind: 'url', url: path, checksum: more.checksum, unpack: instruction.unpack ?? false }
    throw new BuilderError('ISB_DOCKERFILE_SYNTAX', "the source of COPY can't be a URL", {
      hint: 'Use ADD to download files.',
    })
  }
  const pattern = bytesOfText(path)
  const unpack = instruction.unpack ?? isAdd
  if (instruction.from === undefined || instruction.from === '') {
    return { kind: 'context', context: '', pattern, unpack }
  }
  const origin = context.origin(instruction.from)
  if (origin.kind === 'context') return { kind: 'context', context: origin.context, pattern, unpack }
  return { kind: 'vertex', vertex: context.originVertex(origin, more.site), pattern, unpack }
}

function isHttpSource(path: string): boolean {
  return /^https?:\/\//.test(path)
}

/** What BuildKit takes for a repository: its protocols, `user@host:path`, and http(s) URLs ending in `.git`. */
function isGitSource(path: string): boolean {
  return (
    /^(?:git|ssh):\/\//.test(path) ||
    /^https?:\/\/[^?#]*\.git(?:$|[?#])/.test(path) ||
    /^[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:/.test(path)
  )
}

/** History is public, what stands before the host of a URL is not. */
function withoutCredentials(path: string): string {
  return path.replace(/^([a-z]+:\/\/)[^/?#@]*@/, '$1')
}

function sourceChecksum(
  context: StageContext,
  instruction: CopyInstruction,
  sources: readonly string[],
  site: Site,
): string | undefined {
  const written = instruction.checksum
  if (written === undefined || written === '') return undefined
  const source = site.at(written)
  const checksum = located(
    () => source,
    () => expand(context, written),
  )
  if (checksum === '') return undefined
  const fail = (message: string, hint: string) =>
    new BuilderError('ISB_DOCKERFILE_SYNTAX', message, { source, hint })
  const [only, ...others] = sources
  if (only === undefined || others.length > 0 || instruction.heredocs.length > 0) {
    throw fail('--checksum needs exactly one source', 'Write one ADD for every checked download.')
  }
  if (!isHttpSource(only)) {
    throw fail('--checksum is for http and https sources only', 'Leave it out for local files.')
  }
  if (parseDigest(checksum) === undefined) {
    throw fail(
      `invalid checksum ${JSON.stringify(checksum)}`,
      'Write `sha256:` and 64 lower-case hexadecimal digits.',
    )
  }
  return checksum
}

function inlineInputs(context: StageContext, instruction: CopyInstruction, site: Site): readonly CopyInput[] {
  return instruction.heredocs.map((heredoc) => {
    if (heredoc.name === '' || /^\.{1,2}$|\//.test(heredoc.name)) {
      throw new BuilderError(
        'ISB_DOCKERFILE_SYNTAX',
        `the here-document name ${JSON.stringify(heredoc.name)} is no file name`,
        {
          source: site.at(heredoc.original),
          hint: 'The name becomes the name of the file; give the directory in the destination.',
        },
      )
    }
    const content = heredoc.expand
      ? located(
          () => site.source,
          () => context.expander.heredoc(heredoc.content, context.state.variables),
        )
      : heredoc.content
    return { kind: 'inline', name: heredoc.name, content }
  })
}
