// Sets up, starts a daemon in temporary directories and builds a real image, from nothing but this machine.

import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startDaemon } from './lib/daemon.mjs'
import { forDemo, setUp } from './lib/setup.mjs'

await setUp(forDemo)

const directory = mkdtempSync(join(tmpdir(), 'isula-demo-'))
let daemon

function show(title, args, options = {}) {
  console.log(`\n$ ctr-img ${args.join(' ')}`)
  const result = daemon.image(args, { stdio: ['ignore', 'inherit', 'inherit'], ...options })
  if (result.status !== 0) throw new Error(`${title} failed with exit code ${result.status}`)
}

try {
  console.log('Starting isula-builder in', directory)
  daemon = await startDaemon({ directory: join(directory, 'daemon') })

  // A base image made here: Debian's static busybox and two files, imported as a root file system.
  const base = join(directory, 'base')
  for (const name of ['bin', 'etc', 'tmp', 'root']) mkdirSync(join(base, name), { recursive: true })
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path))
  copyFileSync(busybox, join(base, 'bin/busybox'))
  spawnSync(join(base, 'bin/busybox'), ['--install', '-s', join(base, 'bin')])
  spawnSync('sh', ['-c', 'for f in bin/*; do [ -L "$f" ] && ln -sf busybox "$f"; done'], { cwd: base })
  writeFileSync(join(base, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
  writeFileSync(join(base, 'etc/group'), 'root:x:0:\n')
  const tar = join(directory, 'base.tar')
  spawnSync('tar', ['-C', base, '--owner=0', '--group=0', '-cf', tar, '.'])
  show('import', ['import', tar, 'base:1.0'])

  const context = join(directory, 'context')
  mkdirSync(context)
  writeFileSync(join(context, 'greeting.txt'), 'Hello from an image built by isula-build\n')
  writeFileSync(
    join(context, 'Dockerfile'),
    `FROM base:1.0 AS build
WORKDIR /src
COPY greeting.txt .
RUN tr a-z A-Z < greeting.txt > shout.txt && ls -l

FROM base:1.0
COPY --from=build /src/shout.txt /greeting
ENV GREETING=/greeting
CMD ["/bin/cat", "/greeting"]
`,
  )
  const archive = join(directory, 'hello.tar')
  show('build', ['build', '-t', 'hello:1.0', context])
  show('images', ['images'])
  show('save', ['save', 'hello:1.0', '-o', archive])

  console.log('\nRunning what it holds:')
  writeFileSync(join(context, 'Run'), 'FROM hello:1.0\nRUN /bin/cat $GREETING\n')
  show('run', ['build', '-f', join(context, 'Run'), context])
  console.log('\nDone. `npm run demo` leaves nothing behind; see README.md for installing the service.')
} finally {
  await daemon?.stop()
  rmSync(directory, { recursive: true, force: true })
}
