import { readFileSync, statSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Caller } from '../ports/caller.js'
import type { Logger } from '../ports/logger.js'
import type { Membership } from '../ports/membership.js'
import { AccountHistory, parseAccounts } from './accounts.js'
import { type NameService, nameService } from './name-service.js'

export interface MembershipOptions {
  /** Paths of passwd(5) and group(5). */
  readonly passwd: string
  readonly group: string
  readonly log: Logger
  readonly names?: NameService
  /** How often the files are looked at without a request, milliseconds. */
  readonly pollMs?: number
}

export interface GroupMembership extends Membership, Disposable {
  /** The groups of the caller less those he was taken out of. Fails like `admit` for the group he runs as. */
  current(caller: Caller): Promise<Caller>
  /** Called when the files no longer grant a user groups that they granted. */
  onLoss(listener: LossListener): void
}

type LossListener = (uid: number, gids: ReadonlySet<number>) => void

/** How long an answer of the name service counts while the files stay as they are, milliseconds. */
const answerMs = 60_000
/** A file that is younger may change once more without a new time, as file systems count it. */
const settleMs = 100
/** A failure that lasts is told this often, milliseconds. */
const reportMs = 60_000

/**
 * Group membership as it is now. What the kernel says of a process lasts as long as the process, and a
 * login session outlasts the membership it began with, so a new connection proves no more than an old one.
 *
 * The account files are looked at with every request (two stat calls, which wait for no thread) and read
 * when they changed. They revoke only what they granted since the daemon started: users of other sources
 * (sss, ldap), groups that a service manager or pam_group(8) gave a process, and access by an ACL of the
 * socket never were theirs to take. When they revoke something, the whole name service is asked whether
 * another source still grants it; no answer is a no.
 */
export function createMembership(options: MembershipOptions): GroupMembership {
  const { log, names: service = nameService, pollMs = 10_000 } = options
  const files = [options.passwd, options.group]
  const history = new AccountHistory()
  const listeners: LossListener[] = []
  let told = new Map<number, ReadonlySet<number>>()
  let stamp = ''
  let isSettled = false
  let content = ''
  let reportedAt = Number.NEGATIVE_INFINITY
  const groupsOf = createCache(async (name: string) => new Set(await service.groupsOf(name)))
  const nameOf = createCache(service.nameOf)

  function report(error: unknown): void {
    if (performance.now() - reportedAt < reportMs) return
    reportedAt = performance.now()
    log.warn('membership.unknown', { error })
  }

  /** The last known state stays when it fails: a file that cannot be read takes nothing from anybody. */
  function look(): void {
    try {
      const { text, changedAt } = stampOf(files)
      if (text === stamp && isSettled) return
      const now = Date.now()
      const [passwd = '', group = ''] = files.map((path) => readFileSync(path, 'utf8'))
      // What was written to meanwhile may be of two versions; the next look reads it again.
      isSettled = stampOf(files).text === text && Math.abs(now - changedAt) > settleMs
      stamp = text
      if (`${passwd}\0${group}` === content) return
      content = `${passwd}\0${group}`
      history.update(parseAccounts(passwd, group))
    } catch (error) {
      report(error)
      return
    }
    groupsOf.clear()
    nameOf.clear()
    tellLosses()
  }

  function tellLosses(): void {
    const before = told
    told = new Map(history.losses())
    for (const [uid, gids] of told) {
      if ([...gids].every((gid) => before.get(uid)?.has(gid) === true)) continue
      log.info('membership.lost', { uid, gids: [...gids] })
      for (const listener of listeners) listener(uid, gids)
    }
  }

  /** The name that another source than the files has for the uid. */
  async function foreignName(uid: number): Promise<string | undefined> {
    try {
      return await nameOf.get(uid)
    } catch (error) {
      report(error)
      return undefined
    }
  }

  async function lostFromFiles(uid: number): Promise<ReadonlySet<number>> {
    if (history.knows(uid)) return history.lostBy(uid)
    // group(5) may list users of another source; who they are is asked only when one of them lost something.
    const name = history.strangersWithLosses.size === 0 ? undefined : await foreignName(uid)
    return name === undefined ? new Set() : history.lostByName(name)
  }

  async function lostBy(uid: number): Promise<ReadonlySet<number>> {
    look()
    const lost = new Set(await lostFromFiles(uid))
    if (lost.size === 0) return lost
    const names = history.now.names.get(uid) ?? [await foreignName(uid)]
    for (const name of names) {
      if (name === undefined) continue
      try {
        for (const gid of await groupsOf.get(name)) lost.delete(gid)
      } catch (error) {
        report(error)
      }
    }
    return lost
  }

  function denied(caller: Caller, gid: number, how: string, hint: string): BuilderError {
    const group = history.groupName(gid)
    const shown = group === undefined ? `the group with gid ${gid}` : `the group ${group}`
    return new BuilderError(
      'ISB_PERMISSION_DENIED',
      `uid ${caller.uid} is no longer a member of ${shown}${how}`,
      { hint },
    )
  }

  function without(caller: Caller, lost: ReadonlySet<number>): Caller {
    if (lost.has(caller.gid)) {
      throw denied(caller, caller.gid, ', as which the client runs', 'Log in again.')
    }
    const groups = caller.groups.filter((gid) => !lost.has(gid))
    return groups.length === caller.groups.length ? caller : { ...caller, groups }
  }

  look()
  const timer = setInterval(look, pollMs)
  timer.unref()

  return {
    async admit(caller, group) {
      if (caller.uid === 0) return caller
      const lost = await lostBy(caller.uid)
      if (group !== undefined && lost.has(group)) {
        const hint = 'Its members may use the socket; an administrator can add the user again.'
        throw denied(caller, group, '', hint)
      }
      return without(caller, lost)
    },
    async current(caller) {
      return caller.uid === 0 ? caller : without(caller, await lostBy(caller.uid))
    },
    onLoss(listener) {
      listeners.push(listener)
    },
    [Symbol.dispose]() {
      clearInterval(timer)
    },
  }
}

function stampOf(paths: readonly string[]): { readonly text: string; readonly changedAt: number } {
  const stats = paths.map((path) => statSync(path, { bigint: true }))
  return {
    text: stats.flatMap(({ dev, ino, size, mtimeNs, ctimeNs }) => [dev, ino, size, mtimeNs, ctimeNs]).join(),
    changedAt: Math.max(...stats.map(({ ctimeMs }) => Number(ctimeMs))),
  }
}

interface Cache<K, V> {
  /** Failures are kept like answers: whoever does not answer is not asked with every request. */
  get(key: K): Promise<V>
  clear(): void
}

function createCache<K, V>(ask: (key: K) => Promise<V>): Cache<K, V> {
  const answers = new Map<K, { readonly answer: Promise<V>; readonly askedAt: number }>()
  return {
    get(key) {
      const known = answers.get(key)
      const askedAt = performance.now()
      if (known !== undefined && askedAt - known.askedAt < answerMs) return known.answer
      const answer = ask(key)
      answers.set(key, { answer, askedAt })
      return answer
    },
    clear: () => answers.clear(),
  }
}
