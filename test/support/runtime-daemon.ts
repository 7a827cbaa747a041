import { makeRuntime } from './temporary-runtime.js'

/**
 * A process that owns a runtime, as the daemon does: `node runtime-daemon.js LAUNCHER ISOLATION COMMAND`.
 * Prints one line of JSON when it is ready and one with the result.
 */
const [launcherEntry = '', isolation = 'oci', command = 'true', runtimePath = '/usr/sbin/runc'] =
  process.argv.slice(2)

const fixture = await makeRuntime({
  launcherEntry,
  isolation: isolation === 'chroot' ? 'chroot' : 'oci',
  change: { runtimePath },
})
const say = (fields: Record<string, unknown>): void => console.log(JSON.stringify(fields))
say({
  directory: fixture.directory,
  dataRoot: fixture.dataRoot,
  runRoot: fixture.runRoot,
  launcher: fixture.runtime.launcherPid(),
  cgroups: fixture.runtime.recovery.cgroups,
})
try {
  const { exit, output } = await fixture.run(command)
  say({ exit, output })
} catch (error) {
  say({ error: String(error) })
}
await fixture[Symbol.asyncDispose]()
