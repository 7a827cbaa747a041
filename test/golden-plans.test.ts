import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseDockerfile } from '@isula-build/shared/dockerfile/parser.js'
import { expect, test } from 'vitest'
import { planBuild } from '../packages/builder-daemon/src/core/plan/from-dockerfile.js'
import type { Plan } from '../packages/builder-daemon/src/core/plan/plan.js'
import { fakeResolver } from '../packages/builder-daemon/src/core/plan/plan-fixture.js'

const root = fileURLToPath(new URL('./golden/plan/', import.meta.url))

const images = {
  'base:20': { WorkingDir: '/', Cmd: ['node'], Env: ['PATH=/usr/bin', 'LANG=C'], Labels: { stage: 'base' } },
  tools: {},
  triggers: { OnBuild: ['COPY --from=tools /etc/tools /etc/', 'ENV TRIGGERED=1'], User: 'app' },
}

const options = {
  buildArgs: { http_proxy: 'http://user:secret@proxy', NEVER_USED: '1' },
  labels: { builder: 'golden' },
  platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
  buildPlatform: { os: 'linux', architecture: 'amd64' },
}

// Run with `vitest -u` to accept new plans; the diff is the review.
test.each(readdirSync(root))('%s plans as recorded', async (name) => {
  const dockerfile = parseDockerfile(readFileSync(`${root}${name}/Dockerfile`), 'Dockerfile')
  const plan = await planBuild(dockerfile, options, fakeResolver(images), new AbortController().signal)
  const text = `${JSON.stringify(readable(plan), null, 2)}\n`
  expect(text).not.toContain('user:secret')
  await expect(text).toMatchFileSnapshot(`${root}${name}/plan.json`)
})

/** Images by name, sources by line, configs sorted: what a reviewer wants to see. */
function readable(plan: Plan): unknown {
  const text = JSON.stringify(plan, (key, value: unknown) => {
    if ((key === 'image' || key === 'base') && isObject(value) && 'reference' in value) return value.reference
    if (key === 'definition') return undefined
    if (key === 'source' && isObject(value) && isObject(value.start)) return `line ${value.start.line}`
    if (key === 'config' && isObject(value)) return Object.fromEntries(Object.entries(value).sort())
    return value
  })
  return JSON.parse(text)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
