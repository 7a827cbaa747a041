import { digestOf } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { afterAll, expect, test } from 'vitest'
import { registryCall, serveRegistry, testRegistryHttp } from '../../../../../test/support/registry-bench.js'
import { createRegistryClient } from '../client.js'

const http = testRegistryHttp()
const client = createRegistryClient(http)
afterAll(() => http.close())

test.each(['tags', 'referrers'] as const)('%s are not collected beyond 16 MiB', async (kind) => {
  const filler = 'x'.repeat(3 << 20)
  await using registry = await serveRegistry((_, response) => {
    response.writeHead(200, { 'content-type': mediaTypes.ociIndex, link: '<?n=1>; rel="next"' })
    response.end(JSON.stringify({ tags: ['a'], manifests: [], filler }))
  })
  const { endpoint } = registry
  const endless =
    kind === 'tags'
      ? client.tags(endpoint, registryCall())
      : client.referrers(endpoint, digestOf('x'), registryCall())
  await expect(endless).rejects.toMatchObject({
    code: 'ISB_LIMIT_EXCEEDED',
    message: expect.stringContaining('16 MiB'),
  })
  expect(registry.requests).toHaveLength(6)
})
