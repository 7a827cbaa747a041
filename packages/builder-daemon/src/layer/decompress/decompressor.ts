import type { ByteSource } from '../tar/reader.js'

/** A source that holds memory, descriptors or a process until it is closed; closing twice is harmless. */
export interface Decompressor extends ByteSource {
  close(): void
}
