/** Columns that a tab takes in a rendered line, wherever it stands. */
const tabWidth = 4

/** One character as a terminal may safely show it. */
export interface DisplayCell {
  readonly text: string
  readonly width: number
  /** UTF-16 offset in the original. */
  readonly offset: number
}

/**
 * The characters of one line with their widths in terminal columns: East Asian wide ones and emoji take two,
 * combining marks none, a tab four; control, format (bidirectional overrides) and lone surrogate characters
 * become escapes.
 */
export function displayCells(line: string): DisplayCell[] {
  const cells: DisplayCell[] = []
  let offset = 0
  for (const character of line) {
    cells.push({ ...displayCell(character), offset })
    offset += character.length
  }
  return cells
}

/** Like `displayCells`, as text. */
export function displayText(text: string): string {
  return displayCells(text)
    .map((cell) => cell.text)
    .join('')
}

function displayCell(character: string): { readonly text: string; readonly width: number } {
  if (character === '\t') return { text: ' '.repeat(tabWidth), width: tabWidth }
  if (character >= ' ' && character <= '~') return { text: character, width: 1 }
  if (isUnsafe(character)) {
    const escaped = escapeSequence(character.codePointAt(0) ?? 0)
    return { text: escaped, width: escaped.length }
  }
  return { text: character, width: isCombining(character) ? 0 : isWide(character) ? 2 : 1 }
}

// Made when first asked for: each looks through the tables of all characters, and most text has none but ASCII.
const isUnsafe = lazyTest(() => /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u)
const isCombining = lazyTest(() => /\p{M}/u)
const isWide = lazyTest(
  () =>
    /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{1b000}-\u{1b2ff}\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u,
)

function lazyTest(make: () => RegExp): (character: string) => boolean {
  let made: RegExp | undefined
  return (character) => {
    made ??= make()
    return made.test(character)
  }
}

function escapeSequence(point: number): string {
  const hex = point.toString(16)
  if (point <= 0xff) return `\\x${hex.padStart(2, '0')}`
  return point <= 0xffff ? `\\u${hex.padStart(4, '0')}` : `\\u{${hex}}`
}
