// Installs isula-builder as a service of this machine, or takes it away again with --uninstall.
//   --root DIR   below this directory instead of / (also: DESTDIR), for packages and tests
//   --built      what is built already, without looking for missing packages first
import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import {
  configuration,
  configurationFiles,
  links,
  ownDirectories,
  programFiles,
  scatteredFiles,
  unit,
} from './lib/service-files.mjs'
import { forService, SetupError, setUp } from './lib/setup.mjs'

const group = 'isula'
const { values: flags } = parseArgs({
  options: {
    root: { type: 'string', default: process.env.DESTDIR ?? '' },
    built: { type: 'boolean', default: false },
    uninstall: { type: 'boolean', default: false },
  },
})
/** Below here; '' is this machine itself. */
const target = flags.root === '' || flags.root === '/' ? '' : resolve(flags.root)
const at = (path) => `${target}${path}`
const say = (text) => console.log(text)
const service = unit.split('/').pop()
const hasManager = target === '' && existsSync('/run/systemd/system')

process.umask(0o022)
try {
  if (process.getuid() !== 0) throw new SetupError('run as root: the service belongs to root')
  if (flags.uninstall) uninstall()
  else {
    if (!flags.built) await setUp(forService)
    install()
  }
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  console.error(error.message)
  process.exitCode = 1
}

function install() {
  const files = programFiles()
  for (const [path, to] of Object.entries(links)) refuseForeign(path, to)
  for (const file of files) put(file)
  sweep(new Set(files.map(({ path }) => at(path))))
  for (const [path, to] of Object.entries(links)) link(path, to)
  const gid = ensureGroup()
  configure(gid)
  if (hasManager) execFileSync('systemctl', ['daemon-reload'], { stdio: 'inherit' })
  say(`Installed isula-build${target === '' ? '' : ` below ${target}`}.`)
  if (target !== '') return
  say(`Members of the group ${group} may build images: usermod -aG ${group} USER`)
  if (hasManager) say(`Start it now and at every boot: systemctl enable --now ${service}`)
  else say('This machine runs no systemd; start it with: isula-builder &')
}

/** Written beside its place and renamed: a running daemon keeps what it has loaded. */
function put({ path, mode, from, content }) {
  const next = `${at(path)}.new`
  mkdirSync(dirname(next), { recursive: true, mode: 0o755 })
  rmSync(next, { force: true })
  writeFileSync(next, content ?? readFileSync(from), { mode, flag: 'wx' })
  chmodSync(next, mode)
  chownSync(next, 0, 0)
  renameSync(next, at(path))
}

/** An older version may have had files that this one has not. */
function sweep(wanted) {
  for (const directory of ownDirectories) {
    for (const entry of readdirSync(at(directory), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath ?? entry.path, entry.name)
      if (!entry.isDirectory() && !wanted.has(path)) rmSync(path, { force: true })
    }
  }
}

function refuseForeign(path, to) {
  const found = lstatSync(at(path), { throwIfNoEntry: false })
  if (found === undefined || (found.isSymbolicLink() && readlinkSync(at(path)) === to)) return
  throw new SetupError(`${at(path)} belongs to something else; remove that first`)
}

function link(path, to) {
  mkdirSync(dirname(at(path)), { recursive: true, mode: 0o755 })
  rmSync(at(path), { force: true })
  symlinkSync(to, at(path))
}

function ensureGroup() {
  const file = at('/etc/group')
  const found = () => {
    const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
    const line = text.split('\n').find((entry) => entry.startsWith(`${group}:`))
    return line === undefined ? undefined : Number(line.split(':')[2])
  }
  const known = found()
  if (known !== undefined) return known
  const prefix = target === '' ? [] : ['--prefix', target]
  const { status, stderr, error } = spawnSync('groupadd', ['--system', ...prefix, group], {
    encoding: 'utf8',
  })
  const gid = found()
  if (gid === undefined) throw new SetupError(`groupadd failed (${error ?? status}): ${stderr}`)
  say(`Made the group ${group}.`)
  return gid
}

/** The group passes through the directory to read the public key; the files are root's alone. */
function configure(gid) {
  mkdirSync(at(configuration), { recursive: true })
  chmodSync(at(configuration), 0o650)
  chownSync(at(configuration), 0, gid)
  for (const file of configurationFiles()) {
    if (existsSync(at(file.path))) say(`Kept ${at(file.path)}`)
    else put(file)
  }
}

function uninstall() {
  if (hasManager && existsSync(unit)) {
    execFileSync('systemctl', ['disable', '--now', service], { stdio: 'inherit' })
  }
  for (const [path, to] of Object.entries(links)) {
    const found = lstatSync(at(path), { throwIfNoEntry: false })
    if (found?.isSymbolicLink() && readlinkSync(at(path)) === to) rmSync(at(path))
  }
  for (const directory of ownDirectories) rmSync(at(directory), { recursive: true, force: true })
  for (const path of scatteredFiles) rmSync(at(path), { force: true })
  if (hasManager) execFileSync('systemctl', ['daemon-reload'], { stdio: 'inherit' })
  say(`Removed isula-build${target === '' ? '' : ` from ${target}`}.`)
  say(`Kept ${at(configuration)}, the group ${group} and the images of the data root.`)
}
