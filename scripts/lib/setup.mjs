// Installs what is missing and says so: Debian packages, npm packages, the build.
import { spawn, spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

const say = (text) => process.stderr.write(`[setup] ${text}\n`)

/** Programs by the Debian package that brings them. */
export const forBuild = { python3: 'python3', make: 'make', 'g++': 'g++' }
/** The daemon itself needs no more: it runs containers, and packs and unpacks archives with these. */
export const forService = {
  runc: 'runc',
  xz: 'xz-utils',
  bzip2: 'bzip2',
  igzip: 'isal',
  gpg: 'gpg',
  groupadd: 'passwd',
}
export const forDemo = { ...forService, busybox: 'busybox-static', unshare: 'util-linux', tar: 'tar' }
export const forTests = {
  ...forDemo,
  crun: 'crun',
  skopeo: 'skopeo',
  podman: 'podman',
  buildah: 'buildah',
  umoci: 'umoci',
  dockerd: 'docker.io',
  'docker-registry': 'docker-registry',
  openssl: 'openssl',
  'gpg-agent': 'gpg-agent',
  mmdebstrap: 'mmdebstrap',
  getfattr: 'attr',
  setcap: 'libcap2-bin',
  zstd: 'zstd',
  strace: 'strace',
  setpriv: 'util-linux',
  flock: 'util-linux',
  ps: 'procps',
  'ssh-add': 'openssh-client',
  python3: 'python3',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  'systemd-analyze': 'systemd',
}

/** A reason to stop that needs no stack trace. */
export class SetupError extends Error {}

/**
 * Makes everything ready for a script that needs these programs, or says why not and exits. `onTypes` is called as soon
 * as the types are built and whatever is in node_modules can be run, native modules apart.
 */
export async function setUp(programs, onTypes = () => undefined) {
  try {
    const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
    if (major < 20 || (major === 20 && minor < 9)) {
      throw new SetupError(`Node.js ${process.versions.node} is too old, at least 20.9 is needed`)
    }
    if (process.getuid() !== 0)
      throw new SetupError('run as root: builds mount overlays and start containers')
    installPackages(programs)
    const isBegun = await installModules(onTypes)
    await buildPrograms()
    if (!isBegun) onTypes()
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    say(error.message)
    process.exit(1)
  }
}

const searchPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

function has(program) {
  return searchPath.some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function missingOf(programs) {
  return Object.entries(programs).filter(([name]) => !has(name))
}

function installPackages(programs) {
  const missing = [...new Set(missingOf(programs).map(([, name]) => name))]
  if (missing.length === 0) return
  if (!has('apt-get')) throw new SetupError(`there is no apt-get here; please install: ${missing.join(' ')}`)
  say(`installing Debian packages: ${missing.join(' ')}`)
  apt('update', '-qq')
  apt('install', '-y', '-qq', '--no-install-recommends', ...missing)
  const still = missingOf(programs).map(([name]) => name)
  if (still.length > 0) throw new SetupError(`not found after installing: ${still.join(' ')}`)
}

/** What apt prints is shown only when it fails. */
function apt(...args) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  // Another apt may be at work, as on a machine that has just started.
  const options = ['-o', 'DPkg::Lock::Timeout=300', '-o', 'APT::Update::Error-Mode=any']
  const result = spawnSync('apt-get', [...options, ...args], { env, encoding: 'utf8' })
  if (result.status !== 0) {
    throw new SetupError(
      `apt-get ${args.join(' ')} failed; is the network up?\n${result.stdout}${result.stderr}`,
    )
  }
}

/** Whether `onTypes` was called: types are built while native modules are compiled, which takes one processor a minute. */
async function installModules(onTypes) {
  if (modulesInstalled()) return false
  installPackages(forBuild)
  say('installing npm packages (npm ci; compiles better-sqlite3, a minute or two)')
  const env = { ...process.env }
  const headers = nodeHeaders()
  if (headers !== undefined) env.npm_config_nodedir = headers
  await npm(env, 'ci', '--ignore-scripts', '--no-audit', '--no-fund')
  const { allowScripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const compiling = npm(env, 'rebuild', ...Object.keys(allowScripts).filter((name) => allowScripts[name]))
  const buildTypes = async () => {
    const compiler = join(root, 'node_modules/typescript/bin/tsc')
    const { status } = await run(process.execPath, [compiler, '-b'], { stdio: 'ignore' })
    // What it finds wrong the build finds again, and says.
    if (status === 0) onTypes()
    return status === 0
  }
  const [isBegun] = await Promise.all([buildTypes(), compiling])
  return isBegun
}

async function npm(env, ...args) {
  const { status, output, error } = await run('npm', args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  if (error !== undefined) throw new SetupError(`cannot run npm: ${error.message}`)
  if (status !== 0) throw new SetupError(`npm ${args[0]} failed:\n${output}`)
}

/** Runs a program in the root of the sources to its end. */
function run(program, args, options) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, ...options })
    const parts = []
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (part) => parts.push(part))
    child.once('error', (error) => resolve({ status: null, output: '', error }))
    child.once('close', (status) => resolve({ status, output: Buffer.concat(parts).toString() }))
  })
}

/** Everything package-lock.json asks for lies in node_modules, in the same versions, compiled. */
function modulesInstalled() {
  const installed = join(root, 'node_modules/.package-lock.json')
  if (!existsSync(installed)) return false
  if (!existsSync(join(root, 'node_modules/better-sqlite3/build/Release/better_sqlite3.node'))) return false
  const packages = (file) => JSON.parse(readFileSync(file, 'utf8')).packages
  const there = packages(installed)
  return Object.entries(packages(join(root, 'package-lock.json'))).every(([path, { version, optional }]) => {
    if (!path.startsWith('node_modules/')) return true
    // Optional ones for other systems stay away.
    return path in there ? there[path].version === version : optional === true
  })
}

/**
 * The prefix with Node's own headers beside the program, with which native modules compile without a
 * download. Headers of another version, as a distribution's package may have left them, do not count.
 */
function nodeHeaders() {
  const prefix = dirname(dirname(process.execPath))
  const file = join(prefix, 'include/node/node_version.h')
  if (!existsSync(file)) return undefined
  const text = readFileSync(file, 'utf8')
  const part = (name) => new RegExp(`#define NODE_${name}_VERSION (\\d+)`).exec(text)?.[1]
  const version = ['MAJOR', 'MINOR', 'PATCH'].map(part).join('.')
  return version === process.versions.node ? prefix : undefined
}

async function buildPrograms() {
  say('building')
  const { status } = await run(process.execPath, [join(root, 'scripts/build.mjs')], { stdio: 'inherit' })
  // The compiler has said why.
  if (status !== 0) throw new SetupError('the build failed')
}
