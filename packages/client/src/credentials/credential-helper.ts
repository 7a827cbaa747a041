import { execFile } from 'node:child_process'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { endTurn } from '../turn.js'
import type { Credentials } from './auth-file.js'

/** A helper may ask the user something. Milliseconds. */
const patience = 60_000
/** Bytes of its answer. */
const answerLimit = 1024 * 1024

/** What Docker's helpers say when they have nothing (docker-credential-helpers, credentials/error.go). */
const nothing = /credentials not found/

/**
 * Asks `docker-credential-NAME get`, found on PATH; undefined when it knows no login for the key. Fails with
 * ISB_ARGUMENT_INVALID.
 */
export function askHelper(name: string, key: string, timeout = patience): Promise<Credentials | undefined> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    return Promise.reject(failed(name, 'its name is no name of a program'))
  }
  const server = key === 'docker.io' ? 'https://index.docker.io/v1/' : key
  const options = { timeout, killSignal: 'SIGKILL', maxBuffer: answerLimit, encoding: 'utf8' } as const
  endTurn()
  return new Promise((resolve, reject) => {
    const child = execFile(`docker-credential-${name}`, ['get'], options, (error, stdout) => {
      if (error === null) {
        try {
          resolve(credentialsOf(name, stdout))
        } catch (reason) {
          reject(reason)
        }
      } else if (nothing.test(stdout)) resolve(undefined)
      else if (error.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER')
        reject(failed(name, 'its answer is too long'))
      else if (error.killed === true) {
        reject(failed(name, `it did not answer within ${timeout / 1000} s`))
      } else if (error.code === 'ENOENT') reject(failed(name, 'it is not installed'))
      else reject(failed(name, printable(stdout) || `exit code ${error.code ?? error.signal}`))
    })
    // One that ends without reading is judged by what it says.
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(server)
  })
}

function credentialsOf(name: string, text: string): Credentials | undefined {
  let answer: unknown
  try {
    answer = JSON.parse(text)
  } catch {
    throw failed(name, 'its answer is not JSON')
  }
  if (typeof answer !== 'object' || answer === null || !('Username' in answer) || !('Secret' in answer)) {
    throw failed(name, 'its answer holds no user name and secret')
  }
  const { Username: username, Secret: password } = answer
  if (typeof username !== 'string' || typeof password !== 'string') {
    throw failed(name, 'its answer holds no user name and secret')
  }
  return username === '' && password === '' ? undefined : { username, password }
}

/** Of what a helper prints; never of a successful answer. */
function printable(text: string): string {
  return text
    .replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
    .trim()
    .slice(0, 200)
}

function failed(name: string, reason: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `credential helper docker-credential-${name}: ${reason}`)
}
