import { accessSync, constants } from 'node:fs'
import { request } from 'node:http'
import { type EngineRequest, openDockerLoad } from '@isula-build/shared/engines/docker-engine.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { OutputSink } from '../output-sink.js'

type Environment = Readonly<Record<string, string | undefined>>

const usualSocket = '/var/run/docker.sock'

/** The socket of DOCKER_HOST. Fails with ISB_UNSUPPORTED for another kind of address. */
export function dockerSocket(environment: Environment): string {
  const host = environment['DOCKER_HOST']
  if (host === undefined || host === '') return usualSocket
  const [, path] = /^unix:\/\/(\/.*)$/.exec(host) ?? []
  if (path !== undefined) return path
  throw new BuilderError('ISB_UNSUPPORTED', `DOCKER_HOST is ${JSON.stringify(host)}, not a unix socket`, {
    hint: 'Pipe the archive instead: build -o docker-archive:- … | docker load',
  })
}

/** Fails before anything is built when dockerd could not be reached afterwards. */
export function checkDocker(socket: string): void {
  try {
    accessSync(socket, constants.W_OK)
  } catch (cause) {
    const denied = (cause as NodeJS.ErrnoException).code === 'EACCES'
    throw denied
      ? new BuilderError('ISB_PERMISSION_DENIED', `dockerd at ${socket}: permission denied`, {
          cause,
          hint: 'Members of the group of its socket may use it.',
        })
      : new BuilderError('ISB_ENGINE_FAILED', `dockerd at ${socket} is not running`, { cause })
  }
}

/** A docker archive that holds the first of the names, given to dockerd under all of them. */
export function dockerSink(socket: string, names: readonly string[]): OutputSink {
  const dial = (options: EngineRequest) => request({ ...options, socketPath: socket, agent: false })
  const load = openDockerLoad({ address: socket, dial }, names)
  return { place: `docker-daemon:${names.join(',')}`, ...load }
}
