import { request } from 'node:http'
import { type DockerLoad, openDockerLoad } from '@isula-build/shared/engines/docker-engine.js'

/** A docker archive to the dockerd behind `socket`; the archive names the image `name`. */
export function loadIntoDocker(socket: string, name: string): DockerLoad {
  const engine = {
    address: socket,
    dial: (options: Parameters<Parameters<typeof openDockerLoad>[0]['dial']>[0]) =>
      request({ ...options, socketPath: socket, agent: false }),
  }
  return openDockerLoad(engine, [name])
}
