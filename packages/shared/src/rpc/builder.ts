import { BuildRequest, BuildResponse } from './build-messages.js'
import { type Decoded, field, message, oneOf, repeated, when } from './codec.js'
import {
  ImagesRequest,
  ImagesResponse,
  ImportRequest,
  ImportResponse,
  LoadRequest,
  LoadResponse,
  RemoveRequest,
  RemoveResponse,
  SaveRequest,
  SaveResponse,
  TagRequest,
} from './image-messages.js'
import { methodsOf } from './service.js'
import {
  AnnotateManifestListRequest,
  AnnotateManifestListResponse,
  CreateManifestListRequest,
  CreateManifestListResponse,
  InspectManifestListRequest,
  InspectManifestListResponse,
  LoginRequest,
  LogoutRequest,
  PullRequest,
  PushManifestListRequest,
  PushRequest,
  RemoveManifestListRequest,
  TransferResponse,
} from './transfer-messages.js'
import { Empty } from './well-known.js'
import { bool, enumeration, int64, text, uint32 } from './wire-types.js'

// proto/isula_build/builder/v1/builder.proto. Meanings stand there.
const name = (message: string): string => `isula.builder.v1.${message}`

export const InfoRequest = message(name('InfoRequest'), { verbose: field(1, bool) })
export const MemoryUse = message(name('MemoryUse'), {
  system: field(1, int64),
  heapSystem: field(2, int64),
  heapAllocated: field(3, int64),
  heapInUse: field(4, int64),
  heapIdle: field(5, int64),
  heapReleased: field(6, int64),
})
export const InfoResponse = message(name('InfoResponse'), {
  memTotal: field(1, int64),
  memFree: field(2, int64),
  swapTotal: field(3, int64),
  swapFree: field(4, int64),
  storageDriver: field(5, text),
  backingFilesystem: field(6, text),
  searchRegistries: repeated(7, text),
  insecureRegistries: repeated(8, text),
  blockedRegistries: repeated(9, text),
  dataRoot: field(10, text),
  runRoot: field(11, text),
  runtime: field(12, text),
  builds: field(13, uint32),
  threads: field(14, uint32),
  experimental: field(15, bool),
  memory: field(16, MemoryUse),
})

export const VersionResponse = message(name('VersionResponse'), {
  version: field(1, text),
  runtimeVersion: field(2, text),
  gitCommit: field(3, text),
  builtAt: field(4, int64),
  platform: field(5, text),
})

export const BuildState = enumeration(name('Build.State'), { STATE_UNSPECIFIED: 0, QUEUED: 1, RUNNING: 2 })
export const Build = message(name('Build'), {
  id: field(1, text),
  owner: field(2, uint32),
  state: field(3, BuildState),
  startedAt: field(4, int64),
  finishedSteps: field(5, uint32),
  totalSteps: field(6, uint32),
  names: repeated(7, text),
})
export const ListBuildsResponse = message(name('ListBuildsResponse'), { builds: repeated(1, Build) })
export const CancelBuildRequest = message(name('CancelBuildRequest'), { id: field(1, text) })

export const PruneRequest = message(name('PruneRequest'), {
  all: field(1, bool),
  keepBytes: field(2, int64),
  dryRun: field(3, bool),
  unusedFor: field(4, int64),
})
export const PrunedKind = enumeration(name('PrunedEntry.Kind'), {
  KIND_UNSPECIFIED: 0,
  LAYER: 1,
  CACHE_MOUNT: 2,
})
export const PrunedEntry = message(name('PrunedEntry'), {
  kind: field(1, PrunedKind),
  name: field(2, text),
  bytes: field(3, int64),
  usedAt: field(4, int64),
  owners: repeated(5, uint32),
})
export type PrunedEntry = Decoded<typeof PrunedEntry>
export const PruneSummary = message(name('PruneSummary'), {
  freedBytes: field(1, int64),
  records: field(2, uint32),
  downloads: field(3, int64),
})
export const PruneResponse = message(name('PruneResponse'), {
  event: oneOf({ removed: when(1, PrunedEntry), summary: when(2, PruneSummary) }),
})

const { unary, serverStream, duplex } = methodsOf('isula.builder.v1.Builder')

/** Service `isula.builder.v1.Builder`. */
export const builderService = {
  Build: duplex('Build', BuildRequest, BuildResponse),
  Images: unary('Images', ImagesRequest, ImagesResponse),
  Tag: unary('Tag', TagRequest, Empty),
  Remove: serverStream('Remove', RemoveRequest, RemoveResponse),
  Import: duplex('Import', ImportRequest, ImportResponse),
  Load: duplex('Load', LoadRequest, LoadResponse),
  Save: serverStream('Save', SaveRequest, SaveResponse),
  Pull: duplex('Pull', PullRequest, TransferResponse),
  Push: duplex('Push', PushRequest, TransferResponse),
  Login: unary('Login', LoginRequest, Empty),
  Logout: unary('Logout', LogoutRequest, Empty),
  CreateManifestList: duplex('CreateManifestList', CreateManifestListRequest, CreateManifestListResponse),
  AnnotateManifestList: duplex(
    'AnnotateManifestList',
    AnnotateManifestListRequest,
    AnnotateManifestListResponse,
  ),
  InspectManifestList: unary('InspectManifestList', InspectManifestListRequest, InspectManifestListResponse),
  PushManifestList: duplex('PushManifestList', PushManifestListRequest, TransferResponse),
  RemoveManifestList: unary('RemoveManifestList', RemoveManifestListRequest, Empty),
  Info: unary('Info', InfoRequest, InfoResponse),
  Version: unary('Version', Empty, VersionResponse),
  ListBuilds: unary('ListBuilds', Empty, ListBuildsResponse),
  CancelBuild: unary('CancelBuild', CancelBuildRequest, Empty),
  Prune: serverStream('Prune', PruneRequest, PruneResponse),
} as const
