// Deterministic contexts and archives: the same bytes on every machine, made once per directory.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'

const epoch = 1_700_000_000
export const busybox = 'bench-busybox:latest'
export const debian = 'bench-debian:latest'

/** A small generator of numbers (mulberry32): not random, only even. */
function numbers(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Text like source code, about 3.5 : 1 under gzip. */
function textPool(next, size) {
  const words = 'function return const let export import require value index length callback options'.split(
    ' ',
  )
  const marks = [' ', ' ', '(', ')', ';\n', ', ', '.', ' = ', '{\n  ', '}\n']
  let text = ''
  while (text.length < size) {
    const word =
      next() < 0.7 ? words[Math.floor(next() * words.length)] : Math.floor(next() * 2 ** 28).toString(16)
    text += word + marks[Math.floor(next() * marks.length)]
  }
  return Buffer.from(text.slice(0, size), 'latin1')
}

function put(path, content) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content)
  utimesSync(path, epoch, epoch)
}

/** `files` files in `files / 20` directories, `bytes` in all, sizes spread as those of an installed npm tree are. */
export function makeTree(root, { files, bytes, seed }) {
  const next = numbers(seed)
  const pool = textPool(next, 4 << 20)
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
  const sizes = Array.from({ length: files }, () => Math.exp(8 + 1.5 * normal()))
  const scale = bytes / sizes.reduce((sum, size) => sum + size, 0)
  const directories = []
  for (let i = 0; i < Math.max(1, files / 20); i++) {
    const isTop = i < 250 || directories.length === 0
    const parent = isTop ? '' : `${directories[Math.floor(next() * directories.length)]}/`
    directories.push(isTop ? `package${i}` : `${parent}lib${i}`)
  }
  for (const directory of directories) mkdirSync(join(root, directory), { recursive: true })
  sizes.forEach((size, i) => {
    const length = Math.max(16, Math.floor(size * scale))
    const from = Math.floor(next() * (pool.length / 2))
    const body = [Buffer.from(`// ${i} ${Math.floor(next() * 2 ** 32)}\n`)]
    for (let left = length - body[0].length, at = from; left > 0; at = 0) {
      const part = pool.subarray(at, at + left)
      body.push(part)
      left -= part.length
    }
    put(join(root, directories[i % directories.length], `f${i}.js`), Buffer.concat(body).subarray(0, length))
  })
}

// About 5,600 new files and 1,000 changed ones, as a large installation of packages makes them.
const install =
  'RUN cp -a /usr/share /opt/share && find /opt/share -type f -exec touch {} + && ' +
  'find /usr/lib -type f -size -64k | sort | head -1000 | xargs touch\n'

const pieces = {
  busybox(root) {
    const tree = join(root, 'busybox')
    for (const path of ['bin', 'etc', 'dev', 'proc', 'sys', 'tmp', 'root', 'usr/bin']) {
      mkdirSync(join(tree, path), { recursive: true })
    }
    const program = ['/bin/busybox', '/usr/bin/busybox'].find(existsSync)
    copyFileSync(program, join(tree, 'bin/busybox'))
    for (const name of execFileSync(program, ['--list'], { encoding: 'utf8' }).split('\n')) {
      if (name !== '' && name !== 'busybox') symlinkSync('busybox', join(tree, 'bin', name))
    }
    put(join(tree, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
    put(join(tree, 'etc/group'), 'root:x:0:\n')
    execFileSync('tar', ['-C', tree, '--owner=0', '--group=0', '-cf', join(root, 'busybox.tar'), '.'])
  },
  debian(root) {
    execFileSync(
      'mmdebstrap',
      ['--quiet', '--variant=minbase', '--format=tar', 'bookworm', join(root, 'debian.tar')],
      {
        stdio: ['ignore', 'ignore', 'inherit'],
      },
    )
  },
  tiny(root) {
    put(join(root, 'Dockerfile'), `FROM ${busybox}\nRUN echo hello > /hello\nCOPY file /file\n`)
    put(join(root, 'file'), 'payload\n')
  },
  tree(root) {
    put(join(root, 'Dockerfile'), `FROM ${busybox}\nCOPY tree /app\n`)
    makeTree(join(root, 'tree'), { files: 20_000, bytes: 200 << 20, seed: 2 })
  },
  large(root) {
    put(join(root, 'Dockerfile'), `FROM ${busybox}\nCOPY data /data\n`)
    const next = numbers(3)
    const text = textPool(next, 8 << 20)
    for (let i = 0; i < 8; i++) {
      const blocks = Array.from({ length: 32 }, () => {
        const at = Math.floor(next() * (text.length / 2))
        if (i % 2 === 1) return text.subarray(at, at + (4 << 20))
        const block = new Uint32Array(1 << 20)
        for (let n = 0; n < block.length; n++) block[n] = next() * 2 ** 32
        return Buffer.from(block.buffer)
      })
      put(join(root, `data/large${i}.bin`), Buffer.concat(blocks))
    }
  },
  commands(root) {
    const more = Array.from({ length: 10 }, (_, i) => `RUN echo ${i} > /opt/n${i}\n`)
    put(join(root, 'Dockerfile'), `FROM ${debian}\n${install}${more.join('')}`)
  },
  stages(root) {
    const numbersOfStages = [0, 1, 2, 3]
    const made = numbersOfStages.map((i) => `FROM ${busybox} AS s${i}\nRUN sleep 2; echo ${i} > /out${i}\n`)
    const taken = numbersOfStages.map((i) => `COPY --from=s${i} /out${i} /out${i}\n`)
    put(join(root, 'Dockerfile'), `${made.join('')}FROM ${busybox}\n${taken.join('')}`)
  },
  hundred(root) {
    for (let i = 0; i < 100; i++) {
      put(join(root, `${i}/Dockerfile`), `FROM ${busybox}\nRUN echo hello ${i} > /hello\nCOPY file /file\n`)
      put(join(root, `${i}/file`), `payload ${i}\n`)
    }
  },
  transfer(root) {
    put(join(root, 'Dockerfile'), `FROM ${debian}\n${install}COPY tree /app\n`)
    makeTree(join(root, 'tree'), { files: 20_000, bytes: 200 << 20, seed: 2 })
  },
  many(root) {
    manyImages(root, 500)
  },
}

/** One docker-archive of images that share a layer and have one of their own each. */
function manyImages(root, count) {
  const stage = join(root, 'archive')
  const digestOf = (bytes) => createHash('sha256').update(bytes).digest('hex')
  const layer = (name, content) => {
    const from = join(root, 'layer')
    put(join(from, name), content)
    const tar = execFileSync('tar', ['-C', from, '--owner=0', '--group=0', '-cf', '-', name])
    rmSync(from, { recursive: true })
    put(join(stage, `${digestOf(tar)}.tar`), tar)
    return digestOf(tar)
  }
  const shared = layer('shared', readFileSync(['/bin/busybox', '/usr/bin/busybox'].find(existsSync)))
  const manifest = []
  for (let i = 0; i < count; i++) {
    const own = layer('id', `image ${i}\n`)
    const config = JSON.stringify({
      architecture: { x64: 'amd64', arm64: 'arm64' }[process.arch] ?? process.arch,
      os: 'linux',
      config: { Cmd: ['/bin/sh'], Labels: { n: String(i) } },
      rootfs: { type: 'layers', diff_ids: [`sha256:${shared}`, `sha256:${own}`] },
      history: [{ created_by: 'shared' }, { created_by: `own ${i}` }],
    })
    put(join(stage, `${digestOf(config)}.json`), config)
    manifest.push({
      Config: `${digestOf(config)}.json`,
      RepoTags: [`localhost/many-${i}:latest`],
      Layers: [`${shared}.tar`, `${own}.tar`],
    })
  }
  put(join(stage, 'manifest.json'), JSON.stringify(manifest))
  execFileSync('tar', ['-C', stage, '--owner=0', '--group=0', '-cf', join(root, 'many.tar'), '.'])
  rmSync(stage, { recursive: true })
}

/** Directory of a piece; it is made when it is not there. */
export function piece(root, name) {
  const directory = join(root, 'data', name)
  const stamp = `${directory}.made`
  if (existsSync(stamp)) return directory
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })
  pieces[name](directory)
  writeFileSync(stamp, '')
  return directory
}
