/** Who is in which group, as passwd(5) and group(5) say. */
export interface Accounts {
  /** Names of a uid; more than one may share it. */
  readonly names: ReadonlyMap<number, ReadonlySet<string>>
  /** Groups of a name, its primary one among them; also of names that only group(5) knows. */
  readonly groups: ReadonlyMap<string, ReadonlySet<number>>
  readonly groupNames: ReadonlyMap<number, string>
}

export const noAccounts: Accounts = { names: new Map(), groups: new Map(), groupNames: new Map() }

/** Lines that are no entry (comments, `+` and `-` of NIS, damage) say nothing. */
export function parseAccounts(passwd: string, group: string): Accounts {
  const names = new Map<number, Set<string>>()
  const groups = new Map<string, Set<number>>()
  const groupNames = new Map<number, string>()
  for (const [name = '', , uidText = '', gidText = ''] of entries(passwd)) {
    const [uid, gid] = [idOf(uidText), idOf(gidText)]
    if (uid === undefined || gid === undefined) continue
    addTo(names, uid, name)
    addTo(groups, name, gid)
  }
  for (const [name = '', , gidText = '', members = ''] of entries(group)) {
    const gid = idOf(gidText)
    if (gid === undefined) continue
    if (!groupNames.has(gid)) groupNames.set(gid, name)
    for (const member of members.split(',')) if (member.trim() !== '') addTo(groups, member.trim(), gid)
  }
  return { names, groups, groupNames }
}

function entries(text: string): readonly (readonly string[])[] {
  return text
    .split('\n')
    .filter((line) => /^[^#+\-:]/.test(line))
    .map((line) => line.split(':'))
}

/** (uid_t) -1 is nobody's. */
function idOf(text: string): number | undefined {
  const id = /^[0-9]{1,10}$/.test(text) ? Number(text) : Number.NaN
  return id < 0xffff_ffff ? id : undefined
}

function addTo<K, V>(sets: Map<K, Set<V>>, key: K, value: V): void {
  const known = sets.get(key)
  if (known === undefined) sets.set(key, new Set([value]))
  else known.add(value)
}

/**
 * The account files over the time that somebody looked at them. What they granted once and do not grant
 * now is lost; about what they never granted they have nothing to say.
 */
export class AccountHistory {
  readonly #names = new Map<number, Set<string>>()
  readonly #granted = new Map<string, Set<number>>()
  readonly #groupNames = new Map<number, string>()
  #now = noAccounts
  #strangers = new Set<string>()

  get now(): Accounts {
    return this.#now
  }

  /** Names that lost a group and that passwd(5) never had: users of another source, by the name they have there. */
  get strangersWithLosses(): ReadonlySet<string> {
    return this.#strangers
  }

  update(now: Accounts): void {
    this.#now = now
    for (const [uid, names] of now.names) for (const name of names) addTo(this.#names, uid, name)
    for (const [name, gids] of now.groups) for (const gid of gids) addTo(this.#granted, name, gid)
    for (const [gid, name] of now.groupNames) this.#groupNames.set(gid, name)
    const known = new Set([...this.#names.values()].flatMap((names) => [...names]))
    this.#strangers = new Set(
      [...this.#granted.keys()].filter((name) => !known.has(name) && this.lostByName(name).size > 0),
    )
  }

  /** Also of a group that is gone. */
  groupName(gid: number): string | undefined {
    return this.#groupNames.get(gid)
  }

  /** passwd(5) has, or had, an entry for it. */
  knows(uid: number): boolean {
    return this.#names.has(uid)
  }

  /** Groups that a name of the uid had once and that none of its names of today has. */
  lostBy(uid: number): ReadonlySet<number> {
    return this.#difference(this.#names.get(uid) ?? [], this.#now.names.get(uid) ?? [])
  }

  lostByName(name: string): ReadonlySet<number> {
    return this.#difference([name], [name])
  }

  /** Every uid that passwd(5) has or had, with what it lost. */
  *losses(): Generator<readonly [uid: number, gids: ReadonlySet<number>]> {
    for (const uid of this.#names.keys()) {
      const gids = this.lostBy(uid)
      if (gids.size > 0) yield [uid, gids]
    }
  }

  #difference(once: Iterable<string>, today: Iterable<string>): Set<number> {
    const lost = new Set([...once].flatMap((name) => [...(this.#granted.get(name) ?? [])]))
    for (const name of today) for (const gid of this.#now.groups.get(name) ?? []) lost.delete(gid)
    return lost
  }
}
