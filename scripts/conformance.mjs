// Runs a directory of conformance cases (see its README.md) against a daemon of its own.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { startDaemon } from './lib/daemon.mjs'
import { root } from './lib/setup.mjs'

const [directory, ...more] = process.argv.slice(2)
if (directory === undefined) throw new Error('usage: conformance.mjs DIRECTORY [ARGUMENTS OF ITS run]')
const runner = join(resolve(directory), 'run')
const cache = process.env.CONFORMANCE_CACHE ?? join(tmpdir(), 'isula-conformance')
mkdirSync(cache, { recursive: true })
const client = join(root, 'bin/isula-build')
const daemon = await startDaemon()
const env = {
  ...process.env,
  ISULABUILD_HOST: daemon.host,
  CONFORMANCE_CACHE: cache,
  PROJECT_BUILD: `${client} ctr-img build -f {dockerfile} --tag {tag} -o docker-archive:{archive}:{tag} {args} {context}`,
  PROJECT_LOAD: `${client} ctr-img load -i {archive}`,
}
try {
  for (const step of [['bases'], ['load-bases']]) {
    const { status } = spawnSync(runner, step, { env, stdio: ['ignore', 'inherit', 'inherit'] })
    if (status !== 0) throw new Error(`${runner} ${step[0]} failed`)
  }
  const child = spawn(
    runner,
    more.length > 0 ? more : ['--list', join(resolve(directory), 'public.txt'), '--jobs', '2'],
    {
      env,
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  )
  process.exitCode = await new Promise((done) => child.once('exit', (code) => done(code ?? 1)))
} finally {
  await daemon.stop()
}
