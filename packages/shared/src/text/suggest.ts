const maxDistance = 2
const maxLength = 64

/**
 * The candidate closest to what was written, at most two edits away; undefined when there is none, or when the
 * value is itself a candidate (its spelling is then not the problem). Case is ignored unless asked for;
 * the suggestion keeps an all-lower or all-upper spelling.
 */
export function suggest(
  value: string,
  candidates: Iterable<string>,
  options: { readonly caseSensitive?: boolean } = {},
): string | undefined {
  if (value.length > maxLength) return undefined
  const fold = (text: string) => (options.caseSensitive ? text : text.toLowerCase())
  const wanted = fold(value)
  let best: string | undefined
  let bestDistance = maxDistance + 1
  for (const candidate of candidates) {
    const folded = fold(candidate)
    if (folded === wanted) return undefined
    if (Math.abs(folded.length - wanted.length) >= bestDistance) continue
    const found = distance(wanted, folded)
    if (found < bestDistance) {
      best = candidate
      bestDistance = found
    }
  }
  if (best === undefined || options.caseSensitive) return best
  if (value === value.toLowerCase()) return best.toLowerCase()
  return value === value.toUpperCase() ? best.toUpperCase() : best
}

/** Levenshtein distance: single-character insertions, deletions and substitutions between two texts. */
export function distance(left: string, right: string): number {
  let previous = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let row = 1; row <= left.length; row++) {
    const current = [row]
    for (let column = 1; column <= right.length; column++) {
      const substitution = (previous[column - 1] ?? 0) + (left[row - 1] === right[column - 1] ? 0 : 1)
      current.push(Math.min((previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1, substitution))
    }
    previous = current
  }
  return previous[right.length] ?? 0
}
