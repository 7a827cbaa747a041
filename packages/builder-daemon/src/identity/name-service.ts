import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/** All sources of accounts (nsswitch.conf(5)), asked through a program. */
export interface NameService {
  /** Every group of the user; [] when there is no such user. */
  groupsOf(name: string): Promise<readonly number[]>
  /** undefined when nobody has the uid. */
  nameOf(uid: number): Promise<string | undefined>
}

/** How long a directory server may take to answer, milliseconds. */
const patience = 5_000

/** Through `id` and `getent`; fails when there is no answer. */
export const nameService: NameService = {
  async groupsOf(name) {
    const text = await ask('id', ['-G', '--', name], 1)
    return text
      .split(/\s+/)
      .filter((gid) => gid !== '')
      .map(Number)
  },
  async nameOf(uid) {
    const [name = ''] = (await ask('getent', ['passwd', String(uid)], 2)).split(':')
    return name === '' ? undefined : name
  },
}

/** '' when the program ends with `unknown`: there is no such entry. */
async function ask(program: string, args: readonly string[], unknown: number): Promise<string> {
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }
  try {
    const { stdout } = await promisify(execFile)(program, [...args], {
      cwd: '/',
      env,
      timeout: patience,
      killSignal: 'SIGKILL',
    })
    return stdout
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === unknown) return ''
    throw error
  }
}
