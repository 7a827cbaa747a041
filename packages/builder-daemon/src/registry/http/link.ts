/** One element of a Link header (RFC 8288). */
export interface Link {
  readonly target: string
  /** Lower-case relation types. */
  readonly relations: readonly string[]
}

/** Elements that follow the grammar, in order; reading ends at the first that does not. */
export function parseLinks(header: string): readonly Link[] {
  const links: Link[] = []
  let at = 0
  const skip = (pattern: RegExp) => {
    pattern.lastIndex = at
    const match = pattern.exec(header)
    if (match !== null) at = pattern.lastIndex
    return match
  }
  for (;;) {
    skip(/[\s,]*/y)
    const target = skip(/<([^<>]*)>/y)?.[1]
    if (target === undefined) return links
    let relations: readonly string[] | undefined
    for (;;) {
      const parameter = skip(/\s*;\s*([!#$%&'*+.^_`|~\w-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,;"]*)))?/y)
      if (parameter === null) break
      const [, name = '', quoted, bare = ''] = parameter
      // Of several `rel` only the first counts (section 3.3).
      if (name.toLowerCase() === 'rel')
        relations ??= (quoted?.replace(/\\(.)/g, '$1') ?? bare).toLowerCase().split(/\s+/)
    }
    links.push({ target, relations: relations?.filter((relation) => relation !== '') ?? [] })
  }
}

/** Where the next page is; undefined after the last one. The caller judges its origin. */
export function nextPage(header: string | undefined, base: URL): URL | undefined {
  if (header === undefined) return undefined
  const next = parseLinks(header).find(({ relations }) => relations.includes('next'))
  if (next === undefined || !URL.canParse(next.target, base.href)) return undefined
  return new URL(next.target, base)
}
