import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { Answer } from '../http/exchange.js'
import {
  blobPath,
  checkedDigest,
  nameOf,
  otherDigest,
  pushScope,
  repositoryPath,
  send,
  type Target,
} from './target.js'
import { emptyBody, sendUpload, sessionOf, type UploadSession } from './upload-session.js'

/**
 * What `RegistryClient.hasBlob` does. It is asked before uploads, so the right to write is asked for at once. A registry
 * that does not answer HEAD is taken to have nothing.
 */
export async function hasBlob(target: Target, digest: Digest): Promise<boolean> {
  const { endpoint } = target
  const answer = await send(
    target,
    {
      ...{ method: 'HEAD', target: blobPath(endpoint, digest), scope: pushScope(endpoint) },
      ...{ expect: [200, 404, 405, 501], repeat: 'safe' },
    },
    `blob ${digest} of ${nameOf(endpoint)}`,
  )
  await answer.discard()
  return answer.status === 200
}

/** Everything else is no reason not to try an upload, which tells what is wrong. */
const serious: readonly ErrorCode[] = ['ISB_CANCELLED', 'ISB_SHUTTING_DOWN', 'ISB_DIGEST_MISMATCH']

/**
 * What `RegistryClient.mountBlob` does (OCI distribution spec, "Mounting a blob from another repository"); asked for
 * once, since it only saves an upload. An upload that the registry begins instead is given to `onUpload`.
 */
export async function mountBlob(
  target: Target,
  digest: Digest,
  from: string,
  onUpload: (session: UploadSession) => void,
): Promise<boolean> {
  const { endpoint } = target
  const what = `mount of blob ${digest} from ${from} to ${nameOf(endpoint)}`
  // Checked like the name of a repository, since it becomes part of a URL and of a scope.
  repositoryPath({ ...endpoint, repository: from }, '')
  const query = `mount=${encodeURIComponent(checkedDigest(digest))}&from=${encodeURIComponent(from)}`
  const path = repositoryPath(endpoint, `blobs/uploads/?${query}`)
  try {
    const answer = await sendUpload(
      target,
      {
        ...{ method: 'POST', expect: [201, 202], repeat: 'reconnect', body: emptyBody },
        ...{ target: path, mountFrom: from },
      },
      what,
    )
    await answer.discard()
    if (answer.status === 201) return isMounted(answer, digest, what)
    onUpload(sessionOf(answer, undefined, 0, what))
    return false
  } catch (error) {
    if (!isBuilderError(error) || serious.includes(error.code)) throw error
    return false
  }
}

function isMounted(answer: Answer, digest: Digest, what: string): true {
  const other = otherDigest(answer.headers['docker-content-digest'], digest)
  if (other === undefined) return true
  const said = JSON.stringify(other.slice(0, 100))
  throw new BuilderError('ISB_DIGEST_MISMATCH', `${what}: the registry says that it mounted ${said}`)
}
