import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Accounts that only one daemon and those who enter its mount namespace see; the machine's stay as they are. */
export interface PrivateAccounts extends Disposable {
  /** Becomes what is behind it, with these accounts in /etc. */
  readonly through: readonly string[]
  /** Replaces the file as the tools for accounts do: another one is moved to its place. */
  edit(name: 'passwd' | 'group', change: (text: string) => string): void
}

/** `passwd` and `group` are lines that are added. */
export function createPrivateAccounts(passwd: readonly string[], group: readonly string[]): PrivateAccounts {
  const work = mkdtempSync(join(tmpdir(), 'isula-accounts-'))
  const etc = join(work, 'etc')
  cpSync('/etc', etc, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true })
  const accounts: PrivateAccounts = {
    through: [
      ...['unshare', '--mount', '--propagation', 'private', 'sh', '-c'],
      ...[`mount --bind ${etc} /etc && exec "$@"`, 'sh'],
    ],
    edit(name, change) {
      const path = join(etc, name)
      writeFileSync(`${path}.new`, change(readFileSync(path, 'utf8')), { mode: 0o644 })
      renameSync(`${path}.new`, path)
    },
    [Symbol.dispose]() {
      rmSync(work, { recursive: true, force: true })
    },
  }
  accounts.edit('passwd', (text) => `${text}${passwd.join('\n')}\n`)
  accounts.edit('group', (text) => `${text}${group.join('\n')}\n`)
  return accounts
}

/** Runs a program in the mount namespace of the process. */
export function inNamespaceOf(pid: number, ...command: readonly string[]): string {
  return execFileSync('nsenter', [`--mount=/proc/${pid}/ns/mnt`, ...command], { encoding: 'utf8' })
}
