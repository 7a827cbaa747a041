import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatPlatform, type Platform, platformMatches } from '@isula-build/shared/oci/platform.js'

/** Where the kernel shows its handlers (Documentation/admin-guide/binfmt-misc.rst). */
export const binfmtDirectory = '/proc/sys/fs/binfmt_misc'

/** One handler for programs that the machine cannot run by itself. */
export interface Handler {
  readonly interpreter: string
  readonly flags: string
  readonly offset: number
  readonly magic: Buffer
  readonly mask: Buffer | undefined
}

/** `e_ident[EI_CLASS]` (1: 32 bit, 2: 64 bit), `e_ident[EI_DATA]` (1: little endian, 2: big) and `e_machine`. */
const machines: Readonly<Record<string, readonly [bits: 1 | 2, order: 1 | 2, machine: number]>> = {
  '386': [1, 1, 3],
  amd64: [2, 1, 62],
  arm: [1, 1, 40],
  arm64: [2, 1, 183],
  loong64: [2, 1, 258],
  mips: [1, 2, 8],
  mipsle: [1, 1, 8],
  mips64: [2, 2, 8],
  mips64le: [2, 1, 8],
  ppc64: [2, 2, 21],
  ppc64le: [2, 1, 21],
  riscv64: [2, 1, 243],
  s390x: [2, 2, 22],
}

/**
 * Makes sure that a RUN for the platform can start: the machine runs it itself (386 on amd64), or the kernel knows an
 * interpreter that it opened beforehand (flag F), as there is none in the image. Fails with ISB_PLATFORM_UNSUPPORTED.
 */
export function requireRunnable(wanted: Platform, host: Platform, directory = binfmtDirectory): void {
  const name = formatPlatform(wanted)
  const isOwn = wanted.architecture === host.architecture
  if (wanted.os === host.os && (isOwn || platformMatches(host, wanted))) return
  const header = elfHeader(wanted)
  const handlers = header === undefined ? [] : readHandlers(directory).filter((one) => handles(one, header))
  if (handlers.some(({ flags }) => flags.includes('F'))) return
  const [handler] = handlers
  if (handler !== undefined) {
    throw new BuilderError(
      'ISB_PLATFORM_UNSUPPORTED',
      `cannot RUN programs for ${name}: ${handler.interpreter} is not there inside of containers`,
      { hint: 'Register it with the flag F (fix binary), as qemu-user-static does.' },
    )
  }
  throw new BuilderError(
    'ISB_PLATFORM_UNSUPPORTED',
    `cannot RUN programs for ${name} on ${formatPlatform(host)}: the kernel knows no emulator for them`,
    { hint: 'Install qemu-user-static, or build without RUN for this platform.' },
  )
}

/** Handlers that are switched on; none where binfmt_misc is not mounted. */
export function readHandlers(directory: string): readonly Handler[] {
  const status = readIfThere(join(directory, 'status'))
  if (status?.trim() !== 'enabled') return []
  return readdirSync(directory)
    .filter((name) => name !== 'status' && name !== 'register')
    .flatMap((name) => {
      const handler = parseHandler(readIfThere(join(directory, name)) ?? '')
      return handler === undefined ? [] : [handler]
    })
}

/** undefined for one that is off, or goes by the name of a file. */
export function parseHandler(text: string): Handler | undefined {
  const lines = text.split('\n')
  if (lines[0] !== 'enabled') return undefined
  const field = (name: string): string | undefined =>
    lines.find((line) => line.startsWith(`${name} `))?.slice(name.length + 1)
  const magic = field('magic')
  const interpreter = field('interpreter')
  if (magic === undefined || interpreter === undefined) return undefined
  const mask = field('mask')
  return {
    interpreter,
    flags:
      lines
        .find((line) => line.startsWith('flags:'))
        ?.slice('flags:'.length)
        .trim() ?? '',
    offset: Number(field('offset') ?? 0),
    magic: Buffer.from(magic, 'hex'),
    mask: mask === undefined ? undefined : Buffer.from(mask, 'hex'),
  }
}

function handles({ offset, magic, mask }: Handler, header: Buffer): boolean {
  if (magic.length === 0 || offset + magic.length > header.length) return false
  return magic.every((byte, i) => ((byte ^ (header[offset + i] ?? 0)) & (mask?.[i] ?? 0xff)) === 0)
}

/** The beginning of an executable (System V ABI, ELF header); undefined for an architecture that is not known here. */
function elfHeader({ os, architecture }: Platform): Buffer | undefined {
  const known = os === 'linux' ? machines[architecture] : undefined
  if (known === undefined) return undefined
  const [bits, order, machine] = known
  const header = Buffer.alloc(64)
  header.set([0x7f, 0x45, 0x4c, 0x46, bits, order, 1])
  const executable = 2
  if (order === 1) {
    header.writeUInt16LE(executable, 16)
    header.writeUInt16LE(machine, 18)
  } else {
    header.writeUInt16BE(executable, 16)
    header.writeUInt16BE(machine, 18)
  }
  return header
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw error
  }
}
