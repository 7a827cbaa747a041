import { BuildEventMessage } from './build-event.js'
import { type Decoded, type Encodable, field, mapOf, message, oneOf, repeated, when } from './codec.js'
import {
  CredentialAnswer,
  NeedCredentials,
  PushOptionsMessage,
  TransferOptionsMessage,
} from './credential-messages.js'
import { Timestamp } from './well-known.js'
import { bigUint64, bool, bytes, text, uint32 } from './wire-types.js'

// proto/isula_build/builder/v1/builder.proto: the frames of a build. Meanings stand there.
const name = (message: string): string => `isula.builder.v1.${message}`

/** Largest `data` or `chunk` of one frame, bytes. */
export const maxChunk = 1 << 20

export const NamedFile = message(name('NamedFile'), { name: field(1, text), content: field(2, bytes) })

export const Directory = message(name('Directory'), {
  path: field(1, text),
  dev: field(2, bigUint64),
  inode: field(3, bigUint64),
})
export const ContextStream = message(name('ContextStream'), {})
export const ContextSource = message(name('ContextSource'), {
  source: oneOf({
    directory: when(1, Directory),
    stream: when(2, ContextStream),
    image: when(3, text),
  }),
})
export type ContextSource = Decoded<typeof ContextSource>

export const FileDestination = message(name('FileDestination'), {
  path: field(1, text),
  parentDev: field(2, bigUint64),
  parentInode: field(3, bigUint64),
})
export type FileDestination = Decoded<typeof FileDestination>
export const StreamDestination = message(name('StreamDestination'), {})
export const Output = message(name('Output'), {
  type: field(1, text),
  destination: oneOf({
    file: when(2, FileDestination),
    stream: when(3, StreamDestination),
    reference: when(4, text),
  }),
  name: field(5, text),
  push: field(6, PushOptionsMessage),
})
export type Output = Decoded<typeof Output>

export const Secret = message(name('Secret'), { id: field(1, text), value: field(2, bytes) })

export const CacheSource = message(name('CacheSource'), {
  location: oneOf({ reference: when(1, text), directory: when(2, Directory) }),
})
export type CacheSource = Decoded<typeof CacheSource>
export const CacheTarget = message(name('CacheTarget'), {
  location: oneOf({ reference: when(1, text), directory: when(2, FileDestination) }),
  mode: field(3, text),
  compression: field(4, text),
  ignoreError: field(5, bool),
})
export type CacheTarget = Decoded<typeof CacheTarget>
export const CacheOptions = message(name('CacheOptions'), {
  from: repeated(1, CacheSource),
  to: repeated(2, CacheTarget),
})

export const BuildOptionsMessage = message(name('BuildOptions'), {
  buildId: field(1, text),
  dockerfile: field(2, NamedFile),
  ignoreFile: field(3, NamedFile),
  context: field(4, ContextSource),
  namedContexts: mapOf(5, text, ContextSource),
  buildArgs: mapOf(6, text, text),
  labels: mapOf(7, text, text),
  env: mapOf(8, text, text),
  target: field(9, text),
  tags: repeated(10, text),
  outputs: repeated(11, Output),
  noCache: field(12, bool),
  capAdd: repeated(14, text),
  proxy: field(15, bool),
  format: field(16, text),
  layers: field(17, text),
  network: field(18, text),
  isolation: field(19, text),
  buildTime: field(20, Timestamp),
  secrets: repeated(21, Secret),
  sshAgents: repeated(22, text),
  cache: field(23, CacheOptions),
  quiet: field(24, bool),
  platforms: repeated(25, text),
  pull: field(26, text),
  transfer: field(27, TransferOptionsMessage),
  noCacheFilter: repeated(28, text),
})
export type BuildOptionsMessage = Decoded<typeof BuildOptionsMessage>

export const ContextChunk = message(name('ContextChunk'), {
  name: field(1, text),
  data: field(2, bytes),
  end: field(3, bool),
})
export const NeedContext = message(name('NeedContext'), { name: field(1, text) })
export const OutputChunk = message(name('OutputChunk'), {
  output: field(1, uint32),
  data: field(2, bytes),
  end: field(3, bool),
})
export const OutputAck = message(name('OutputAck'), { output: field(1, uint32), error: field(2, text) })
export const AgentData = message(name('AgentData'), {
  agent: field(1, text),
  connection: field(2, uint32),
  data: field(3, bytes),
  end: field(4, bool),
})
export const BuildResult = message(name('BuildResult'), { imageId: field(1, text), names: repeated(2, text) })

export const BuildRequest = message(name('BuildRequest'), {
  payload: oneOf({
    options: when(1, BuildOptionsMessage),
    context: when(2, ContextChunk),
    agent: when(3, AgentData),
    outputAck: when(4, OutputAck),
    credentials: when(5, CredentialAnswer),
  }),
})
export type BuildRequest = Decoded<typeof BuildRequest>

export const BuildResponse = message(name('BuildResponse'), {
  payload: oneOf({
    event: when(1, BuildEventMessage),
    needContext: when(2, NeedContext),
    output: when(3, OutputChunk),
    agent: when(4, AgentData),
    result: when(5, BuildResult),
    needCredentials: when(6, NeedCredentials),
  }),
})
/** A response as the daemon writes it. */
export type BuildResponse = Encodable<typeof BuildResponse>
