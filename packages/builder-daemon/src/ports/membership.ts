import type { Caller } from './caller.js'

/** What the account database says now about groups that the kernel saw when a caller connected. */
export interface Membership {
  /**
   * The caller with the groups he still has. Fails with ISB_PERMISSION_DENIED when he was taken out of
   * `group` (the one of the socket; undefined has no members), or of the group he runs as.
   */
  admit(caller: Caller, group: number | undefined): Promise<Caller>
}
