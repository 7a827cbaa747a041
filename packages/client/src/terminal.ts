type Name = 'stdout' | 'stderr'

const opened = new Map<Name, NodeJS.WriteStream>()
let failed: (name: Name, error: NodeJS.ErrnoException) => void = (_name, error) => {
  throw error
}

/** Making a stream costs more than writing to it, so it is made for the first that asks. */
function stream(name: Name): NodeJS.WriteStream {
  const known = opened.get(name)
  if (known !== undefined) return known
  const made = process[name]
  made.on('error', (error) => failed(name, error))
  opened.set(name, made)
  return made
}

/** Whom failed writes are told. */
export function onWriteError(listener: typeof failed): void {
  failed = listener
}

/** Nothing waits to be written. */
export function isAllWritten(): boolean {
  return [...opened.values()].every(({ writableLength }) => writableLength === 0)
}

/** What standard output and error can show; the only reader of NO_COLOR and TERM. */
export const terminal = {
  get color(): boolean {
    return stream('stderr').isTTY === true && !process.env['NO_COLOR'] && process.env['TERM'] !== 'dumb'
  },
  get width(): number {
    // A terminal that does not know its size says 0.
    return stream('stderr').columns || 120
  },
  /** Standard error can be drawn on. */
  get drawable(): boolean {
    return stream('stderr').isTTY === true && process.env['TERM'] !== 'dumb'
  },
  get interactive(): boolean {
    return stream('stdout').isTTY === true
  },
}

/** One line on standard output. */
export function printLine(text: string): void {
  stream('stdout').write(`${text}\n`)
}

/** One line on standard error. */
export function warnLine(text: string): void {
  stream('stderr').write(`${text}\n`)
}

/** Text on standard error as it is, such as a prompt. */
export function warnText(text: string): void {
  stream('stderr').write(text)
}

/** Text on standard output as it is. */
export function printText(text: string): void {
  stream('stdout').write(text)
}

/** Raw bytes on standard output; resolves when more may come. */
export function printBytes(data: Uint8Array): Promise<void> {
  return written(stream('stdout'), data)
}

/** Raw bytes on standard error; resolves when more may come. */
export function warnBytes(data: Uint8Array): Promise<void> {
  return written(stream('stderr'), data)
}

function written(target: NodeJS.WriteStream, data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    target.write(data, (error) => (error == null ? resolve() : reject(error)))
  })
}
