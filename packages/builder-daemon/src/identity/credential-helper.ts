import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Credentials } from '../ports/registry.js'

/** Programs `docker-credential-NAME` (github.com/docker/docker-credential-helpers). */
export interface CredentialHelpers {
  get(name: string, server: string): Promise<Credentials | undefined>
  store(name: string, server: string, credentials: Credentials): Promise<void>
  /** false when it had none. */
  erase(name: string, server: string): Promise<boolean>
}

const outputLimit = 1024 * 1024
const notFound = /credentials not found/i

/**
 * Helpers are looked for in these directories only, and see nothing of the daemon's environment. Failures are
 * ISB_CONFIG_INVALID naming the helper; what it said is not repeated, as that may be a secret.
 */
export function createCredentialHelpers(searchPath: readonly string[], timeLimit: number): CredentialHelpers {
  const call = (name: string, action: string, input: string): Promise<Outcome> =>
    run(program(searchPath, name), action, input, { searchPath, timeLimit })
  return {
    async get(name, server) {
      const { code, output } = await call(name, 'get', server)
      if (code !== 0 && notFound.test(output)) return undefined
      if (code !== 0) throw failed(name, `\`get\` ends with ${code}`)
      const credentials = parseAnswer(output)
      if (credentials === undefined) throw failed(name, 'its answer to `get` is malformed')
      return credentials.username === '' && credentials.password === '' ? undefined : credentials
    },
    async store(name, server, { username, password }) {
      const input = JSON.stringify({ ServerURL: server, Username: username, Secret: password })
      const { code } = await call(name, 'store', input)
      if (code !== 0) throw failed(name, `\`store\` ends with ${code}`)
    },
    async erase(name, server) {
      const { code, output } = await call(name, 'erase', server)
      if (code !== 0 && notFound.test(output)) return false
      if (code !== 0) throw failed(name, `\`erase\` ends with ${code}`)
      return true
    },
  }
}

function parseAnswer(output: string): Credentials | undefined {
  try {
    const { Username: username, Secret: password } = JSON.parse(output) as Record<string, unknown>
    return typeof username === 'string' && typeof password === 'string' ? { username, password } : undefined
  } catch {
    return undefined
  }
}

interface Outcome {
  readonly code: number | null
  readonly output: string
}

function run(
  path: string,
  action: string,
  input: string,
  { searchPath, timeLimit }: { readonly searchPath: readonly string[]; readonly timeLimit: number },
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, [action], {
      env: { PATH: searchPath.join(':'), HOME: '/root', LC_ALL: 'C' },
      cwd: '/',
      // A helper that starts others leaves none of them behind when it is ended.
      detached: true,
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    let output = ''
    let reason: string | undefined
    const kill = (why: string): void => {
      reason ??= why
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
      } catch {
        // It has ended by itself.
      }
    }
    const timer = setTimeout(() => kill(`it says nothing for ${timeLimit / 1000} seconds`), timeLimit)
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
      if (output.length > outputLimit) kill('it says too much')
    })
    // One that does not read its input tells by its exit code what it thinks.
    child.stdin.on('error', () => undefined)
    child.stdin.end(`${input}\n`)
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(failed(path, error.message))
    })
    child.once('close', (code) => {
      clearTimeout(timer)
      if (reason === undefined) resolve({ code, output })
      else reject(failed(path, reason))
    })
  })
}

function program(searchPath: readonly string[], name: string): string {
  for (const directory of searchPath) {
    const path = join(directory, `docker-credential-${name}`)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // The next directory may have it.
    }
  }
  throw failed(name, `docker-credential-${name} is not in ${searchPath.join(', ')}`)
}

function failed(name: string, reason: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', `credential helper ${name} failed: ${reason}`)
}
