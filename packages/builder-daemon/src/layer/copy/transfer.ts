import { createContentDigest } from '../pipe/content-digest.js'
import { changed } from './direct-reader.js'
import type { SourceFile } from './source-reader.js'

const chunk = Buffer.allocUnsafeSlow(1 << 20)

/**
 * Reads a file to its end, giving views that are valid during the call, and returns its content digest. Fails
 * with ISB_CONTEXT_CHANGED when it is not as long as it was when it was opened, or was written meanwhile.
 */
export function transfer(file: SourceFile, path: string, each: (bytes: Buffer) => void): Buffer {
  const content = createContentDigest(file.size)
  let left = file.size
  while (left > 0) {
    const count = file.read(chunk)
    if (count === 0) break
    // What was appended meanwhile shows in the size at the end.
    const bytes = chunk.subarray(0, Math.min(count, left))
    left -= bytes.length
    content.update(bytes)
    each(bytes)
  }
  const after = file.finish()
  if (left !== 0 || after.size !== file.size || after.mtimeNs !== file.mtimeNs) throw changed(path)
  return content.digest()
}
