/** What standard output and error can show; the only reader of NO_COLOR and TERM. */
export const terminal = {
  get color(): boolean {
    return process.stderr.isTTY === true && !process.env['NO_COLOR'] && process.env['TERM'] !== 'dumb'
  },
  get width(): number {
    // A terminal that does not know its size says 0.
    return process.stderr.columns || 120
  },
  /** Standard error can be drawn on. */
  get drawable(): boolean {
    return process.stderr.isTTY === true && process.env['TERM'] !== 'dumb'
  },
  get interactive(): boolean {
    return process.stdout.isTTY === true
  },
}

/** One line on standard output. */
export function printLine(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** One line on standard error. */
export function warnLine(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** Text on standard error as it is, such as a prompt. */
export function warnText(text: string): void {
  process.stderr.write(text)
}

/** Text on standard output as it is. */
export function printText(text: string): void {
  process.stdout.write(text)
}

/** Raw bytes on standard output; resolves when more may come. */
export function printBytes(data: Uint8Array): Promise<void> {
  return written(process.stdout, data)
}

/** Raw bytes on standard error; resolves when more may come. */
export function warnBytes(data: Uint8Array): Promise<void> {
  return written(process.stderr, data)
}

function written(stream: NodeJS.WriteStream, data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(data, (error) => (error == null ? resolve() : reject(error)))
  })
}
