import { readFileSync, statfsSync } from 'node:fs'
import { arch } from 'node:os'

export interface MemoryInfo {
  /** Bytes. */
  readonly memTotal: number
  readonly memFree: number
  readonly swapTotal: number
  readonly swapFree: number
}

/** From /proc/meminfo (proc(5)). */
export function memoryInfo(): MemoryInfo {
  const text = readFileSync('/proc/meminfo', 'utf8')
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024
  return {
    memTotal: bytes('MemTotal'),
    memFree: bytes('MemFree'),
    swapTotal: bytes('SwapTotal'),
    swapFree: bytes('SwapFree'),
  }
}

/** Names of statfs(2) magic numbers, as the original prints them. */
const fileSystems: Readonly<Record<number, string>> = {
  61267: 'extfs',
  1481003842: 'xfs',
  2435016766: 'btrfs',
  16914836: 'tmpfs',
  801189825: 'zfs',
  2035054128: 'overlayfs',
  4076150800: 'f2fs',
}

export function backingFileSystem(path: string): string {
  const { type } = statfsSync(path)
  return fileSystems[type] ?? `0x${type.toString(16)}`
}

/** Go's name of this machine's architecture, as images spell it. */
export function hostArchitecture(): string {
  const names: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' }
  return names[arch()] ?? arch()
}
