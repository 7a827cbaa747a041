import type { CacheReason, SkipReason } from './cache-reason.js'

/**
 * A reason in one line of words that scripts may look for: its kind, then what it is about. Names and paths are as they
 * are, so what shows it masks control characters.
 */
export function reasonText(reason: CacheReason | SkipReason): string {
  switch (reason.kind) {
    case 'instruction-changed':
      return reason.parts === undefined ? reason.kind : `${reason.kind} [${reason.parts.join(', ')}]`
    case 'arg-changed':
      return `${reason.kind} ${reason.name}`
    case 'base-changed':
      return `${reason.kind} ${shortDigest(reason.from)}→${shortDigest(reason.to)}`
    case 'files-changed':
    case 'mode-changed': {
      const more = reason.more > 0 ? [`+${reason.more}`] : []
      return `${reason.kind} [${[...reason.paths, ...more].join(', ')}]`
    }
    case 'parent-missed':
      return `${reason.kind} ${reason.step}`
    case 'evicted':
      return `${reason.kind} ${new Date(reason.at).toISOString()}`
    case 'instruction-added':
    case 'no-cache':
    case 'never-built':
    case 'not-reached':
    case 'not-needed':
      return reason.kind
  }
}

/** Twelve digits tell digests apart for people. */
function shortDigest(digest: string): string {
  return digest.replace(/^(?:sha256:)?([0-9a-f]{12})[0-9a-f]{52}$/, '$1')
}
