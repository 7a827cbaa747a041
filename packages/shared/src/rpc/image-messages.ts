import { FileDestination, StreamDestination } from './build-messages.js'
import { type Decoded, field, message, oneOf, repeated, when } from './codec.js'
import { ErrorDetail } from './error-detail.js'
import { bool, bytes, int64, text, uint32 } from './wire-types.js'

// proto/isula_build/builder/v1/builder.proto: the image store. Meanings stand there.
const name = (message: string): string => `isula.builder.v1.${message}`

export const ImagesRequest = message(name('ImagesRequest'), { filter: field(1, text) })
export const Image = message(name('Image'), {
  id: field(1, text),
  names: repeated(2, text),
  createdAt: field(3, int64),
  size: field(4, int64),
  owner: field(5, uint32),
})
export type Image = Decoded<typeof Image>
export const ImagesResponse = message(name('ImagesResponse'), { images: repeated(1, Image) })

export const TagRequest = message(name('TagRequest'), { image: field(1, text), name: field(2, text) })

export const RemoveRequest = message(name('RemoveRequest'), {
  images: repeated(1, text),
  all: field(2, bool),
  prune: field(3, bool),
})
export const RemoveFailure = message(name('RemoveFailure'), {
  image: field(1, text),
  error: field(2, ErrorDetail),
})
export const RemoveResponse = message(name('RemoveResponse'), {
  event: oneOf({
    untagged: when(1, text),
    deletedLayer: when(2, text),
    deletedImage: when(3, text),
    failed: when(4, RemoveFailure),
  }),
})

export const ArchiveStream = message(name('ArchiveStream'), {})
export const ArchiveSource = message(name('ArchiveSource'), {
  source: oneOf({ path: when(1, text), stream: when(2, ArchiveStream) }),
})
export type ArchiveSource = Decoded<typeof ArchiveSource>
export const StoredImage = message(name('StoredImage'), { id: field(1, text), names: repeated(2, text) })

export const ImportOptions = message(name('ImportOptions'), {
  source: field(1, ArchiveSource),
  reference: field(2, text),
})
export const ImportRequest = message(name('ImportRequest'), {
  payload: oneOf({ options: when(1, ImportOptions), chunk: when(2, bytes) }),
})
export const ImportResponse = message(name('ImportResponse'), {
  event: oneOf({ log: when(1, text), image: when(2, StoredImage) }),
})

export const SeparatedLoad = message(name('SeparatedLoad'), {
  app: field(1, text),
  directory: field(2, text),
  base: field(3, text),
  lib: field(4, text),
  skipCheck: field(5, bool),
})
export const LoadOptions = message(name('LoadOptions'), {
  source: oneOf({ archive: when(1, ArchiveSource), separated: when(2, SeparatedLoad) }),
})
export const LoadRequest = message(name('LoadRequest'), {
  payload: oneOf({ options: when(1, LoadOptions), chunk: when(2, bytes) }),
})
export const LoadResponse = message(name('LoadResponse'), {
  event: oneOf({ log: when(1, text), image: when(2, StoredImage) }),
})

export const SeparatedSave = message(name('SeparatedSave'), {
  base: field(1, text),
  lib: field(2, text),
  rename: field(3, text),
  directory: field(4, text),
})
export const SaveRequest = message(name('SaveRequest'), {
  images: repeated(1, text),
  format: field(2, text),
  destination: oneOf({
    file: when(3, FileDestination),
    stream: when(4, StreamDestination),
    separated: when(5, SeparatedSave),
  }),
})
export const SaveResponse = message(name('SaveResponse'), {
  event: oneOf({ log: when(1, text), chunk: when(2, bytes) }),
})
