import { type Decoded, field, message, repeated } from './codec.js'
import { methodsOf } from './service.js'
import { Empty, Timestamp } from './well-known.js'
import { bool, bytes, enumeration, int64, text, uint64 } from './wire-types.js'

// The service of isula-build 0.9.6, field for field (proto/isula_build/v1/control.proto): its own
// client drives our daemon. Nothing may be renumbered, retyped or renamed.
const name = (message: string): string => `isula.build.v1.${message}`

export const BuildStatic = message(name('BuildStatic'), { buildTime: field(1, Timestamp) })

export const BuildRequest = message(name('BuildRequest'), {
  buildID: field(1, text),
  buildType: field(2, text),
  contextDir: field(3, text),
  fileContent: field(4, text),
  output: field(5, text),
  buildArgs: repeated(6, text),
  proxy: field(7, bool),
  iidfile: field(8, text),
  buildStatic: field(9, BuildStatic),
  additionalTag: field(10, text),
  capAddList: repeated(11, text),
  entityID: field(12, text),
  encrypted: field(13, bool),
  format: field(14, text),
})
export const BuildResponse = message(name('BuildResponse'), { imageID: field(1, text) })

export const StatusRequest = message(name('StatusRequest'), { buildID: field(1, text) })
export const StatusResponse = message(name('StatusResponse'), { content: field(1, text) })

export const ListRequest = message(name('ListRequest'), { imageName: field(1, text) })
export const ImageInfo = message(name('ListResponse.ImageInfo'), {
  repository: field(1, text),
  tag: field(2, text),
  id: field(3, text),
  created: field(4, text),
  size: field(5, text),
})
export const ListResponse = message(name('ListResponse'), { images: repeated(1, ImageInfo) })

export const TagRequest = message(name('TagRequest'), { image: field(1, text), tag: field(2, text) })

export const RemoveRequest = message(name('RemoveRequest'), {
  imageID: repeated(1, text),
  all: field(2, bool),
  prune: field(3, bool),
})
export const RemoveResponse = message(name('RemoveResponse'), { layerMessage: field(1, text) })

export const ServingStatus = enumeration(name('HealthCheckResponse.ServingStatus'), {
  UNKNOWN: 0,
  SERVING: 1,
  NOT_SERVING: 2,
})
export const HealthCheckResponse = message(name('HealthCheckResponse'), { status: field(1, ServingStatus) })

export const LoginRequest = message(name('LoginRequest'), {
  server: field(1, text),
  username: field(2, text),
  password: field(3, text),
})
export const LoginResponse = message(name('LoginResponse'), { content: field(1, text) })
export const LogoutRequest = message(name('LogoutRequest'), { server: field(1, text), all: field(2, bool) })
export const LogoutResponse = message(name('LogoutResponse'), { result: field(1, text) })

export const SeparatorLoad = message(name('SeparatorLoad'), {
  app: field(1, text),
  dir: field(2, text),
  base: field(3, text),
  lib: field(4, text),
  skipCheck: field(5, bool),
  enabled: field(6, bool),
})
export const LoadRequest = message(name('LoadRequest'), {
  path: field(1, text),
  loadID: field(2, text),
  sep: field(3, SeparatorLoad),
})
export const LoadResponse = message(name('LoadResponse'), { log: field(1, text) })

export const SeparatorSave = message(name('SeparatorSave'), {
  base: field(1, text),
  lib: field(2, text),
  rename: field(3, text),
  dest: field(4, text),
  enabled: field(5, bool),
})
export const SaveRequest = message(name('SaveRequest'), {
  saveID: field(1, text),
  images: repeated(2, text),
  path: field(3, text),
  format: field(4, text),
  sep: field(5, SeparatorSave),
})
/** How clients up to 0.9.3 number the same fields; they call the same method. */
export const EarlierSaveRequest = message(name('EarlierSaveRequest'), {
  images: repeated(1, text),
  path: field(2, text),
  saveID: field(3, text),
  format: field(4, text),
  sep: field(5, SeparatorSave),
})
export const SaveResponse = message(name('SaveResponse'), { log: field(1, text) })

export const ImportRequest = message(name('ImportRequest'), {
  importID: field(1, text),
  source: field(2, text),
  reference: field(3, text),
})
export const ImportResponse = message(name('ImportResponse'), { log: field(1, text) })

export const PushRequest = message(name('PushRequest'), {
  pushID: field(1, text),
  imageName: field(2, text),
  format: field(3, text),
})
export const PushResponse = message(name('PushResponse'), { response: field(1, text) })
export const PullRequest = message(name('PullRequest'), { pullID: field(1, text), imageName: field(2, text) })
export const PullResponse = message(name('PullResponse'), { response: field(1, text) })

export const InfoRequest = message(name('InfoRequest'), { verbose: field(1, bool) })
export const MemData = message(name('MemData'), {
  memTotal: field(1, int64),
  memFree: field(2, int64),
  swapTotal: field(3, int64),
  swapFree: field(4, int64),
})
export const StorageData = message(name('StorageData'), {
  storageDriver: field(1, text),
  storageBackingFs: field(2, text),
})
export const RegistryData = message(name('RegistryData'), {
  registriesSearch: repeated(1, text),
  registriesInsecure: repeated(2, text),
  registriesBlock: repeated(3, text),
})
export const MemStat = message(name('MemStat'), {
  memSys: field(1, uint64),
  heapSys: field(2, uint64),
  heapAlloc: field(3, uint64),
  heapInUse: field(4, uint64),
  heapIdle: field(5, uint64),
  heapReleased: field(6, uint64),
})
export const InfoResponse = message(name('InfoResponse'), {
  memInfo: field(1, MemData),
  storageInfo: field(2, StorageData),
  registryInfo: field(3, RegistryData),
  dataRoot: field(4, text),
  runRoot: field(5, text),
  OCIRuntime: field(6, text),
  builderNum: field(7, int64),
  goRoutines: field(8, int64),
  memStat: field(9, MemStat),
  experimental: field(10, bool),
})

export const VersionResponse = message(name('VersionResponse'), {
  version: field(1, text),
  goVersion: field(2, text),
  gitCommit: field(3, text),
  buildTime: field(4, text),
  osArch: field(5, text),
})

export const ManifestCreateRequest = message(name('ManifestCreateRequest'), {
  manifestList: field(1, text),
  manifests: repeated(2, text),
})
export const ManifestCreateResponse = message(name('ManifestCreateResponse'), { imageID: field(1, text) })
export const ManifestAnnotateRequest = message(name('ManifestAnnotateRequest'), {
  manifestList: field(1, text),
  manifest: field(2, text),
  arch: field(3, text),
  os: field(4, text),
  osFeatures: repeated(5, text),
  variant: field(6, text),
})
export const ManifestInspectRequest = message(name('ManifestInspectRequest'), {
  manifestList: field(1, text),
})
export const ManifestInspectResponse = message(name('ManifestInspectResponse'), { data: field(1, bytes) })
export const ManifestPushRequest = message(name('ManifestPushRequest'), {
  manifestList: field(1, text),
  dest: field(2, text),
})
export const ManifestPushResponse = message(name('ManifestPushResponse'), { result: field(1, text) })

/** The fields that the two orders number differently, as lists: any of them may be the images. */
const savedFields = message(name('SaveRequest'), {
  first: repeated(1, text),
  second: repeated(2, text),
  third: repeated(3, text),
})

/**
 * A save request of either order. The path tells them apart: it is absolute, and no image begins with a
 * slash. A separated save has none; there the third field is the earlier order's ID or is left out.
 */
export function decodeSaveRequest(bytes: Uint8Array): Decoded<typeof SaveRequest> {
  const { second, third } = savedFields.decode(bytes)
  return hasEarlierOrder(second, third.at(-1) ?? '')
    ? EarlierSaveRequest.decode(bytes)
    : SaveRequest.decode(bytes)
}

function hasEarlierOrder(second: readonly string[], third: string): boolean {
  if (third.startsWith('/')) return false
  if (second.at(-1)?.startsWith('/') === true) return true
  // Without a path, or with a relative one, which is refused under the name it has.
  return /^[0-9a-f]{12}$/.test(third) || (second.length === 0 && third !== '')
}

const { unary, serverStream } = methodsOf('isula.build.v1.Control')

/** Service `isula.build.v1.Control`. */
export const controlService = {
  Build: unary('Build', BuildRequest, BuildResponse),
  Status: serverStream('Status', StatusRequest, StatusResponse),
  List: unary('List', ListRequest, ListResponse),
  Version: unary('Version', Empty, VersionResponse),
  Push: serverStream('Push', PushRequest, PushResponse),
  Pull: serverStream('Pull', PullRequest, PullResponse),
  Remove: serverStream('Remove', RemoveRequest, RemoveResponse),
  HealthCheck: unary('HealthCheck', Empty, HealthCheckResponse),
  Login: unary('Login', LoginRequest, LoginResponse),
  Logout: unary('Logout', LogoutRequest, LogoutResponse),
  Load: serverStream('Load', LoadRequest, LoadResponse),
  Import: serverStream('Import', ImportRequest, ImportResponse),
  Tag: unary('Tag', TagRequest, Empty),
  Save: { ...serverStream('Save', SaveRequest, SaveResponse), requestDeserialize: decodeSaveRequest },
  Info: unary('Info', InfoRequest, InfoResponse),
  ManifestCreate: unary('ManifestCreate', ManifestCreateRequest, ManifestCreateResponse),
  ManifestAnnotate: unary('ManifestAnnotate', ManifestAnnotateRequest, Empty),
  ManifestInspect: unary('ManifestInspect', ManifestInspectRequest, ManifestInspectResponse),
  ManifestPush: serverStream('ManifestPush', ManifestPushRequest, ManifestPushResponse),
} as const
