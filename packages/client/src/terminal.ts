import { fstatSync, writeSync } from 'node:fs'
import { nativeHandles, pipeOverHandle } from './pipe/native-pipe.js'

type Name = 'stdout' | 'stderr'

/** Standard output or error, as what it is. */
interface Output {
  /** Bytes that were written and have not left. */
  readonly waiting: number
  /** Of a terminal, and of what only Node.js itself tells apart. */
  readonly stream?: NodeJS.WriteStream
  /** `taken`: more may come, or it failed. */
  write(data: Uint8Array, taken: (error?: Error | null) => void): void
}

const descriptors = { stdout: 1, stderr: 2 } as const
const opened = new Map<Name, Output>()
let failed: (name: Name, error: NodeJS.ErrnoException) => void = (_name, error) => {
  throw error
}

/** Whom failed writes are told. */
export function onWriteError(listener: typeof failed): void {
  failed = listener
}

/** Nothing waits to be written. */
export function isAllWritten(): boolean {
  return [...opened.values()].every(({ waiting }) => waiting === 0)
}

/** What standard output and error can show; the only reader of NO_COLOR and TERM. */
export const terminal = {
  get color(): boolean {
    return isTerminal('stderr') && !process.env['NO_COLOR'] && process.env['TERM'] !== 'dumb'
  },
  get width(): number {
    // A terminal that does not know its size says 0.
    return output('stderr').stream?.columns || 120
  },
  /** Standard error can be drawn on. */
  get drawable(): boolean {
    return isTerminal('stderr') && process.env['TERM'] !== 'dumb'
  },
  get interactive(): boolean {
    return isTerminal('stdout')
  },
}

function isTerminal(name: Name): boolean {
  return output(name).stream?.isTTY === true
}

/** One line on standard output. */
export function printLine(text: string): void {
  print('stdout', `${text}\n`)
}

/** One line on standard error. */
export function warnLine(text: string): void {
  print('stderr', `${text}\n`)
}

/** Text on standard error as it is, such as a prompt. */
export function warnText(text: string): void {
  print('stderr', text)
}

/** Text on standard output as it is. */
export function printText(text: string): void {
  print('stdout', text)
}

/** Raw bytes on standard output; resolves when more may come. */
export function printBytes(data: Uint8Array): Promise<void> {
  return written('stdout', data)
}

/** Raw bytes on standard error; resolves when more may come. */
export function warnBytes(data: Uint8Array): Promise<void> {
  return written('stderr', data)
}

function print(name: Name, text: string): void {
  output(name).write(Buffer.from(text), () => undefined)
}

function written(name: Name, data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    output(name).write(data, (error) => (error == null ? resolve() : reject(error)))
  })
}

/** Made for the first that asks: a stream of Node.js costs more than all that is written to it. */
function output(name: Name): Output {
  const known = opened.get(name)
  if (known !== undefined) return known
  const made = outputTo(name)
  opened.set(name, made)
  return made
}

function outputTo(name: Name): Output {
  const descriptor = descriptors[name]
  const stat = fstatSync(descriptor)
  if (stat.isFile() || (stat.isCharacterDevice() && stat.rdev === nullDevice)) return fileOutput(name)
  return (stat.isFIFO() ? pipeOutput(name) : undefined) ?? streamOutput(name)
}

/** /dev/null, whose numbers are the same on every Linux. */
const nullDevice = 0x103

/** Written at once, as Node.js does with files as well. */
function fileOutput(name: Name): Output {
  return {
    waiting: 0,
    write(data, taken) {
      try {
        for (let at = 0; at < data.length; ) at += writeSync(descriptors[name], data, at)
        taken()
      } catch (error) {
        process.nextTick(failed, name, error as NodeJS.ErrnoException)
        taken(error as Error)
      }
    },
  }
}

function pipeOutput(name: Name): Output | undefined {
  const handles = nativeHandles()
  if (handles === undefined) return undefined
  let taken: (() => void)[] = []
  const allTaken = (): void => {
    const heard = taken
    taken = []
    for (const hear of heard) hear()
  }
  let failure: NodeJS.ErrnoException | undefined
  const pipe = pipeOverHandle(
    handles,
    { descriptor: descriptors[name] },
    {
      data: () => undefined,
      drained: allTaken,
      closed(error) {
        failure = error ?? new Error('closed')
        failed(name, failure)
        allTaken()
      },
    },
  )
  return {
    get waiting() {
      return pipe.waiting
    },
    write(data, hear) {
      // What is handed over may be a buffer that is used again once it was taken.
      if (failure === undefined) pipe.write([data])
      if (failure !== undefined || pipe.waiting === 0) hear(failure)
      else taken.push(() => hear(failure))
    },
  }
}

function streamOutput(name: Name): Output {
  const stream = process[name]
  stream.on('error', (error) => failed(name, error))
  return {
    stream,
    get waiting() {
      return stream.writableLength
    },
    write(data, taken) {
      stream.write(data, taken)
    },
  }
}
