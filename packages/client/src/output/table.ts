/** Characters of a piece, about. */
const pieceLength = 1 << 15

/**
 * The original's table: dashes above, below the header and at the end, every cell with a leading blank,
 * every column five wider than its widest cell, two blanks between columns. It comes in pieces, which end with a line: of one
 * long string all parts would be kept until the end, and collecting garbage would take longer than anything else.
 */
export function* formatTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
): Generator<string, void, undefined> {
  const widths = header.map((title, i) => {
    let widest = title.length
    for (const row of rows) {
      const length = row[i]?.length ?? 0
      if (length > widest) widest = length
    }
    return widest + 5
  })
  const rule = `${widths.map((width) => '-'.repeat(width)).join('  ')}\n`
  const blanks = widths.map((width) => ' '.repeat(width - 1))
  let text = rule
  const addLine = (cells: readonly string[]): void => {
    for (let i = 0; i < widths.length; i++) {
      const cell = cells[i] ?? ''
      text += i === 0 ? ' ' : '   '
      text += cell
      text += blanks[i]?.slice(cell.length) ?? ''
    }
    text += '\n'
  }
  addLine(header)
  text += rule
  for (const row of rows) {
    addLine(row)
    if (text.length < pieceLength) continue
    yield text
    text = ''
  }
  yield text + rule
}

/** What the original prints for an empty store. */
export const emptyImageTable = [
  '-----------   ----   ---------   --------',
  'REPOSITORY    TAG    IMAGE ID    CREATED',
  '-----------   ----   ---------   --------',
].join('\n')
