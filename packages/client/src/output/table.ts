/**
 * The original's table: dashes above, below the header and at the end, every cell with a leading blank,
 * every column five wider than its widest cell, two blanks between columns.
 */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, i) => {
    let widest = title.length
    for (const row of rows) {
      const length = row[i]?.length ?? 0
      if (length > widest) widest = length
    }
    return widest + 5
  })
  const rule = widths.map((width) => '-'.repeat(width)).join('  ')
  const line = (cells: readonly string[]): string => {
    let text = ''
    for (let i = 0; i < widths.length; i++) {
      text += `${i === 0 ? ' ' : '   '}${cells[i] ?? ''}`.padEnd((widths[i] ?? 0) + (i === 0 ? 0 : 2))
    }
    return text
  }
  return [rule, line(header), rule, ...rows.map(line), rule].join('\n')
}

/** What the original prints for an empty store. */
export const emptyImageTable = [
  '-----------   ----   ---------   --------',
  'REPOSITORY    TAG    IMAGE ID    CREATED',
  '-----------   ----   ---------   --------',
].join('\n')
