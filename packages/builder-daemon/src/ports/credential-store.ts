import type { Credentials } from './registry.js'

/**
 * Logins of users, each user's apart (`login`). Keys are registry hosts, or `host/namespace` for a part of one; the most
 * specific one that is a prefix of `host/repository` counts. Files have the format of Docker's config.json with `auths`,
 * `credHelpers` and `credsStore`, mode 0600, replaced atomically.
 */
export interface CredentialStore {
  get(uid: number, host: string, repository: string): Promise<Credentials | undefined>
  /** Adds or replaces the entry of exactly this key. */
  set(uid: number, key: string, credentials: Credentials): Promise<void>
  /** false when there was none. */
  remove(uid: number, key: string): Promise<boolean>
  removeAll(uid: number): Promise<void>
}
