import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import type { Decoded } from '@isula-build/shared/rpc/codec.js'
import type { BuildRequest } from '@isula-build/shared/rpc/control.js'
import { parseOutputSpec } from '@isula-build/shared/text/output-spec.js'
import { knowsNoLogins } from './credential-questions.js'
import type { BuildClient, BuildOptions, BuildOutput } from './handlers.js'
import {
  checkBuildId,
  checkCapabilities,
  checkChoice,
  checkPath,
  checkTime,
  invalid,
  orUndefined,
} from './request-checks.js'
import { unspecifiedTransfer } from './transfer-options.js'

type Request = Decoded<typeof BuildRequest>

const maxDockerfile = 1 << 20

/** The original's request in our terms. `decrypt` opens build args when the client closed them. */
export function controlBuildOptions(request: Request, decrypt: (hex: string) => string): BuildOptions {
  if (request.buildType !== 'ctr-img') {
    throw invalid(`the build type ${JSON.stringify(request.buildType)} is not supported`)
  }
  const content = Buffer.from(request.fileContent, 'utf8')
  if (content.length > maxDockerfile) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `the Dockerfile is larger than ${maxDockerfile} bytes`)
  }
  const buildArgs = request.encrypted ? request.buildArgs.map(decrypt) : request.buildArgs
  return {
    id: checkBuildId(request.buildID),
    dockerfile: { name: 'Dockerfile', content },
    ignoreFile: undefined,
    context: { kind: 'directory', path: checkPath(request.contextDir, 'context'), expected: undefined },
    namedContexts: {},
    buildArgs: assignments(buildArgs),
    labels: {},
    env: {},
    target: undefined,
    tags: request.additionalTag === '' ? [] : [request.additionalTag],
    outputs: request.output === '' ? [] : [outputOf(request.output)],
    iidFile: request.iidfile === '' ? undefined : checkPath(request.iidfile, 'iidfile'),
    noCache: false,
    noCacheFilter: [],
    platforms: [],
    capAdd: checkCapabilities(request.capAddList),
    proxy: request.proxy,
    format: checkChoice(orUndefined(request.format) ?? 'docker', 'image format', ['docker', 'oci']),
    layers: 'instruction',
    network: 'host',
    isolation: 'oci',
    fixedTime: checkTime(request.buildStatic?.buildTime),
    secrets: new Map(),
    sshAgents: [],
    cacheFrom: [],
    cacheTo: [],
    pull: 'missing',
    transfer: unspecifiedTransfer,
  }
}

/** An argument without `=` says nothing, and the original ignores it. */
function assignments(args: readonly string[]): Readonly<Record<string, string>> {
  const pairs = args.flatMap((arg): [string, string][] => {
    const equals = arg.indexOf('=')
    return equals < 0 ? [] : [[arg.slice(0, equals), arg.slice(equals + 1)]]
  })
  return Object.fromEntries(pairs)
}

/** The original's transports; everything else takes a client that takes part. */
function outputOf(text: string): BuildOutput {
  const output = parseOutputSpec(text)
  switch (output.kind) {
    case 'docker-archive':
    case 'oci-archive': {
      const { kind, path, name } = output
      return { kind, name, target: { kind: 'file', path: checkPath(path, 'output'), parent: undefined } }
    }
    case 'registry': {
      const [reference, ...more] = output.references
      if (reference === undefined || more.length > 0) break
      return { kind: 'registry', reference, push: output.push, name: localName(reference) }
    }
    case 'docker-daemon': {
      const [name, ...more] = output.names
      if (name === undefined || more.length > 0) break
      return { kind: 'docker-daemon', name }
    }
    case 'isulad':
      return { kind: 'isulad', name: output.name }
  }
  throw invalid(`transport ${JSON.stringify(text.split(':', 1)[0])} not support`, {
    hint: 'Build with the client of this version for this output.',
  })
}

/** The original's client shares its files with the daemon and takes part in nothing. */
export const absentClient: BuildClient = {
  ...knowsNoLogins,
  streamContext() {
    throw unsupported('a context')
  },
  openOutput() {
    throw unsupported('an output')
  },
  openAgent() {
    throw unsupported('an agent')
  },
}

function unsupported(what: string): BuilderError {
  return new BuilderError('ISB_UNSUPPORTED', `this client cannot stream ${what}`)
}
