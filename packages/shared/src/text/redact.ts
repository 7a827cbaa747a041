/**
 * Replaces the user information of URLs (`https://user:password@host` → `https://***@host`, RFC 3986
 * section 3.2.1). One pass over the text, whatever it holds.
 */
export function redactUrls(text: string): string {
  let result = ''
  let copied = 0
  for (let at = text.indexOf('://'); at !== -1; at = text.indexOf('://', at)) {
    const start = at + 3
    let userEnd = -1
    let end = start
    for (; end < text.length && !endsAuthority(text.charCodeAt(end)); end++) {
      if (text[end] === '@') userEnd = end
    }
    if (userEnd !== -1) {
      result += `${text.slice(copied, start)}***`
      copied = userEnd
    }
    // The colon that ends this authority may begin another URL.
    at = Math.max(start, end - 1)
  }
  return result + text.slice(copied)
}

/** `/`, `?`, `#`, `"`, `'`, `\`, white space and controls. */
function endsAuthority(code: number): boolean {
  return (
    code <= 0x20 ||
    code === 0x2f ||
    code === 0x3f ||
    code === 0x23 ||
    code === 0x22 ||
    code === 0x27 ||
    code === 0x5c
  )
}
