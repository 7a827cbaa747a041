import { BuilderError } from '../errors/builder-error.js'

/** Go's names for systems and architectures (OCI image spec, image-index.md `platform`). */
export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

const systems = new Set(
  'aix android darwin dragonfly freebsd hurd illumos ios js linux netbsd openbsd plan9 solaris wasip1 windows zos'.split(
    ' ',
  ),
)

const architectures = new Set(
  (
    '386 amd64 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ' +
    'ppc ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 sw64 wasm'
  ).split(' '),
)

const architectureAliases: ReadonlyMap<string, string> = new Map([
  ['x86_64', 'amd64'],
  ['x86-64', 'amd64'],
  ['i386', '386'],
  ['i686', '386'],
  ['aarch64', 'arm64'],
  ['armhf', 'arm'],
  ['armel', 'arm'],
  ['loongarch64', 'loong64'],
  ['sw_64', 'sw64'],
])

const component = /^[A-Za-z0-9_.-]+$/

/**
 * `os[/architecture[/variant]]` or an architecture alone, in any usual spelling (`aarch64`,
 * `Linux/x86_64`). What is left out comes from `host`. Rules: containerd's platforms package.
 * Fails with ISB_PLATFORM_UNSUPPORTED.
 */
export function parsePlatform(text: string, host: Platform): Platform {
  const parts = text.split('/')
  if (parts.length > 3) throw invalid(text, `it has ${parts.length} parts`)
  for (const part of parts) {
    if (part === '') throw invalid(text, 'a part of it is empty')
    if (!component.test(part)) throw invalid(text, `${JSON.stringify(part)} is no name`)
  }
  const [first = '', architecture, variant] = parts
  if (architecture === undefined) return parseSingle(text, first, host)
  const platform = normalizePlatform({
    os: first,
    architecture,
    ...(variant === undefined ? {} : { variant }),
  })
  if (!systems.has(platform.os)) throw invalid(text, `there is no operating system "${first}"`)
  if (!architectures.has(platform.architecture)) {
    throw invalid(text, `there is no architecture "${architecture}"`)
  }
  return platform
}

function parseSingle(text: string, name: string, host: Platform): Platform {
  const os = normalizeOs(name)
  if (systems.has(os)) return { ...host, os }
  const platform = normalizePlatform({ os: host.os, architecture: name })
  if (!architectures.has(platform.architecture)) {
    throw invalid(text, 'it is neither an operating system nor an architecture')
  }
  return platform
}

function invalid(text: string, reason: string): BuilderError {
  return new BuilderError('ISB_PLATFORM_UNSUPPORTED', `invalid platform ${JSON.stringify(text)}: ${reason}`, {
    hint: 'Write it as `os/architecture[/variant]`, for example `linux/arm64`.',
  })
}

function normalizeOs(os: string): string {
  const lower = os.toLowerCase()
  return lower === 'macos' ? 'darwin' : lower
}

/** Go's spelling; the default variant is left out for amd64 (`v1`) and arm64 (`v8`) and written for arm (`v7`). */
export function normalizePlatform(platform: Platform): Platform {
  const written = platform.architecture.toLowerCase()
  const architecture = architectureAliases.get(written) ?? written
  const variant = normalizeVariant(written, architecture, (platform.variant ?? '').toLowerCase())
  const os = normalizeOs(platform.os)
  return variant === '' ? { os, architecture } : { os, architecture, variant }
}

function normalizeVariant(written: string, architecture: string, variant: string): string {
  if (written === 'armel') return 'v6'
  switch (architecture) {
    case '386':
      return ''
    case 'amd64':
      return variant === 'v1' || variant === '1' ? '' : prefixed(variant)
    case 'arm64': {
      const name = prefixed(variant).replace(/\.0$/, '')
      return name === 'v8' ? '' : name
    }
    case 'arm':
      return written === 'armhf' || variant === '' ? 'v7' : prefixed(variant)
    default:
      return variant
  }
}

function prefixed(variant: string): string {
  return /^[0-9]/.test(variant) ? `v${variant}` : variant
}

/** `linux/arm64`, `linux/arm/v6`. */
export function formatPlatform(platform: Platform): string {
  const base = `${platform.os}/${platform.architecture}`
  return platform.variant === undefined || platform.variant === '' ? base : `${base}/${platform.variant}`
}

/**
 * What runs on `wanted`, best first: older variants of an architecture, 386 on amd64, arm on arm64.
 */
export function compatiblePlatforms(wanted: Platform): readonly Platform[] {
  const platform = normalizePlatform(wanted)
  const { os } = platform
  switch (platform.architecture) {
    case 'amd64':
      return [
        ...below(platform.variant, 1).map((level) => variantOf(os, 'amd64', level)),
        { os, architecture: '386' },
      ]
    case 'arm64':
      return [
        ...arm64Levels(platform.variant).map((level) => variantOf(os, 'arm64', level)),
        ...[8, 7, 6, 5].map((level) => variantOf(os, 'arm', `v${level}`)),
      ]
    case 'arm':
      return below(platform.variant, 5).map((level) => variantOf(os, 'arm', level))
    default:
      return [platform]
  }
}

function variantOf(os: string, architecture: string, variant: string): Platform {
  return normalizePlatform({ os, architecture, variant })
}

function below(variant: string | undefined, lowest: number): readonly string[] {
  const level = /^v([0-9]{1,2})$/.exec(variant ?? `v${lowest}`)?.[1]
  if (level === undefined) return [variant ?? '']
  const levels: string[] = []
  for (let i = Number(level); i >= lowest; i--) levels.push(`v${i}`)
  return levels.length === 0 ? [`v${level}`] : levels
}

/** ARMv9.x contains ARMv8.(x+5), up to v8.9. */
function arm64Levels(variant: string | undefined): readonly string[] {
  const match = /^v([89])(?:\.([0-9]))?$/.exec(variant ?? 'v8')
  if (match === null) return [variant ?? '']
  const minor = Number(match[2] ?? 0)
  const names = (major: number, from: number) =>
    Array.from({ length: from + 1 }, (_, i) => (from - i === 0 ? `v${major}` : `v${major}.${from - i}`))
  return match[1] === '9' ? [...names(9, minor), ...names(8, Math.min(minor + 5, 9))] : names(8, minor)
}

/** Position of `have` in what runs on `wanted`: 0 is the best, undefined does not run at all. */
export function platformRank(wanted: Platform, have: Platform): number | undefined {
  const name = formatPlatform(normalizePlatform(have))
  const rank = compatiblePlatforms(wanted).findIndex((platform) => formatPlatform(platform) === name)
  return rank < 0 ? undefined : rank
}

export function platformMatches(wanted: Platform, have: Platform): boolean {
  return platformRank(wanted, have) !== undefined
}
