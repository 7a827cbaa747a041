/**
 * A path as the kernel knows it: arbitrary bytes but NUL, one byte per character (latin1), so that
 * names which are not UTF-8 survive. No leading slash, no `.`/`..` components, `/`-separated; '' is the root.
 */
export type BytePath = string & { readonly __brand: 'BytePath' }

/** From text a user wrote (UTF-8), without any cleaning. */
export function bytesOfText(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1')
}

/** For display; bytes that are not UTF-8 become U+FFFD. */
export function textOfBytes(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8')
}

/** Lexically cleaned, rooted: leading slashes, `.` and empty components go, `..` never climbs above the root. */
export function rootedPath(bytes: string): BytePath {
  const parts: string[] = []
  for (const part of bytes.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..') parts.pop()
    else parts.push(part)
  }
  return parts.join('/') as BytePath
}
