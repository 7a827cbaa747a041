/**
 * Lengths in bits of the codes of the bytes 0 to 255 and of the end of a string (RFC 7541, appendix B), one base-36
 * digit each. The code is canonical: the lengths alone give it.
 */
const lengths = [
  'dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6ca',
  'd67777777777777777777777878djde6f56565666577666567655677777fbeds',
  'kmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmn',
  'qqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu',
].join('')
const longest = 30
const endOfString = 256

interface Codes {
  /** By length in bits: its first code, how many there are, and where their symbols begin. */
  readonly first: readonly number[]
  readonly count: readonly number[]
  readonly start: readonly number[]
  readonly symbols: readonly number[]
}

let known: Codes | undefined

function canonicalCodes(): Codes {
  const symbols: number[] = []
  const first: number[] = []
  const count: number[] = []
  const start: number[] = []
  let code = 0
  for (let length = 0; length <= longest; length++) {
    code *= 2
    first.push(code)
    start.push(symbols.length)
    const digit = length.toString(36)
    for (let at = lengths.indexOf(digit); at !== -1; at = lengths.indexOf(digit, at + 1)) symbols.push(at)
    const found = symbols.length - (start[length] ?? 0)
    count.push(found)
    code += found
  }
  return { first, count, start, symbols }
}

/** The string whose Huffman code is `bytes`, one latin1 character per byte; undefined when it is none. */
export function huffmanText(bytes: Uint8Array): string | undefined {
  known ??= canonicalCodes()
  const { first, count, start, symbols } = known
  let text = ''
  let code = 0
  let length = 0
  let onlyOnes = true
  for (const byte of bytes) {
    for (let mask = 0x80; mask !== 0; mask >>= 1) {
      const bit = (byte & mask) === 0 ? 0 : 1
      code = code * 2 + bit
      length++
      onlyOnes &&= bit === 1
      const index = code - (first[length] ?? 0)
      if (index < (count[length] ?? 0)) {
        const symbol = symbols[(start[length] ?? 0) + index] ?? endOfString
        if (symbol === endOfString) return undefined
        text += String.fromCharCode(symbol)
        code = 0
        length = 0
        onlyOnes = true
      } else if (length === longest) return undefined
    }
  }
  // What is left of the last byte is the beginning of the code of the end.
  return length < 8 && onlyOnes ? text : undefined
}
