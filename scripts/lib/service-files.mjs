// What the service consists of: every file below the root it is installed into, with its mode.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { root } from './setup.mjs'

const library = '/usr/lib/isula-build'
export const configuration = '/etc/isula-build'
export const unit = '/usr/lib/systemd/system/isula-build.service'
const sysusers = '/usr/lib/sysusers.d/isula-build.conf'
const documentation = '/usr/share/doc/isula-build'
const completions = '/usr/share/bash-completion/completions'

/** Links in /usr/bin and what they point to. */
export const links = Object.fromEntries(
  ['isula-build', 'ctr-img', 'isula-builder'].map((name) => [`/usr/bin/${name}`, `${library}/bin/${name}`]),
)

/** What lies in directories of others. */
export const scatteredFiles = [unit, sysusers, `${completions}/isula-build`, `${completions}/isula-builder`]

/** Directories that hold nothing else. */
export const ownDirectories = [library, documentation]

/** `{ path, mode, from }` or `{ path, mode, content }`: everything but the configuration. */
export function programFiles() {
  return [
    ...copies('dist', /\.(cjs|js|cache)$/),
    ...nativeModules(),
    file(`${library}/package.json`, 0o644, '{ "type": "commonjs" }\n'),
    // The bundles are readable by all; only root can make use of the daemon's.
    ...['isula-build', 'ctr-img'].map((name) => file(`${library}/bin/${name}`, 0o555, program(name))),
    file(`${library}/bin/isula-builder`, 0o550, program('isula-builder')),
    { path: unit, mode: 0o640, from: join(root, 'systemd/isula-build.service') },
    { path: sysusers, mode: 0o644, from: join(root, 'systemd/sysusers.conf') },
    ...['isula-build', 'isula-builder'].map((name) =>
      file(`${completions}/${name}`, 0o644, completionOf(name)),
    ),
    ...['docs/config.md', 'LICENSE', 'README.md'].map((from) => ({
      ...{ path: `${documentation}/${basename(from)}`, mode: 0o644, from: join(root, from) },
    })),
  ]
}

/** Never overwritten: they belong to the administrator. */
export function configurationFiles() {
  return readdirSync(join(root, 'etc')).map((name) => ({
    path: `${configuration}/${name}`,
    mode: 0o600,
    from: join(root, 'etc', name),
  }))
}

function file(path, mode, content) {
  return { path, mode, content }
}

function copies(directory, wanted) {
  return readdirSync(join(root, directory), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && wanted.test(entry.name))
    .map((entry) => {
      const from = join(entry.parentPath ?? entry.path, entry.name)
      return { path: join(library, from.slice(root.length)), mode: 0o644, from }
    })
}

/** The modules no bundle can hold, without what they need only to be compiled. */
function nativeModules() {
  const loaded = /\.(c?js|json|node)$/
  const platform = readdirSync(join(root, 'node_modules/@koromix')).map((name) => `@koromix/${name}`)
  const files = ['bindings', 'file-uri-to-path', 'koffi', ...platform].flatMap((name) =>
    copies(`node_modules/${name}`, loaded),
  )
  const sqlite = copies('node_modules/better-sqlite3/lib', loaded)
  const addon = 'node_modules/better-sqlite3/build/Release/better_sqlite3.node'
  return [
    ...files.filter(({ path }) => !/\/(test|doc|vendor|cnoke)\b/.test(path)),
    ...sqlite,
    ...[addon, 'node_modules/better-sqlite3/package.json'].map((path) => ({
      ...{ path: join(library, path), mode: 0o644, from: join(root, path) },
    })),
  ]
}

/**
 * The program with the Node.js that runs now: the native modules are compiled for it, and a service
 * has no PATH of a user.
 */
function program(name) {
  const text = readFileSync(join(root, 'bin', name), 'utf8')
  return text.replace(/ node( (?:--|"\$0").*\n)/, (_, rest) => ` ${process.execPath}${rest}`)
}

function completionOf(command) {
  return execFileSync(join(root, 'bin', command), ['completion'], { encoding: 'utf8' })
}
