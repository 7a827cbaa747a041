import { buildInfo } from '@isula-build/shared/build-info.js'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Entrance, takeEntrance } from './compose/entrance.js'
import type { Daemon } from './compose.js'
import { completionScript } from './config/completion.js'
import { loadConfig } from './config/daemon-config.js'
import { daemonHelp, parseFlags } from './config/flags.js'
import { createLogger } from './observe/log.js'
import { dumpStacks } from './observe/stack-dump.js'

async function main(argv: readonly string[]): Promise<void> {
  const outcome = parseFlags(argv, process.env)
  if (outcome.kind === 'help') process.stdout.write(daemonHelp)
  if (outcome.kind === 'version') {
    process.stdout.write(`isula-builder version ${buildInfo.version}, build ${buildInfo.commit}\n`)
  }
  if (outcome.kind === 'completion') process.stdout.write(completionScript)
  if (outcome.kind !== 'run') return

  if (process.getuid?.() !== 0) {
    throw new BuilderError('ISB_PERMISSION_DENIED', 'isula-builder needs root', {
      hint: 'Builds mount overlays and start containers; only `isula-build` runs as any user.',
    })
  }
  process.umask(0o022)
  const config = loadConfig(outcome.flags)
  const log = createLogger(config.logLevel)
  for (const warning of config.warnings) log.warn('config.default', { warning })
  process.on('unhandledRejection', (error) => log.error('unhandled-rejection', { error }))
  process.on('uncaughtException', (error) => log.error('uncaught-exception', { error }))

  // Without a listener, Node would open its debugger, and with it the daemon, to every local user.
  process.on('SIGUSR1', () => {
    try {
      log.info('stack.dumped', { path: dumpStacks(config.runRoot, new Date()) })
    } catch (error) {
      log.error('stack.not-dumped', { error })
    }
  })

  const starting = new AbortController()
  let entrance: Entrance | undefined
  let daemon: Daemon | undefined
  const stop = (signal: string): void => {
    log.info('daemon.stopping', { signal })
    if (!starting.signal.aborted) {
      starting.abort(new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping'))
      daemon?.stop().then(() => process.exit(0))
      return
    }
    // A second signal stops waiting: for running builds, or for a start to be undone.
    if (daemon !== undefined) {
      daemon.hurry()
      return
    }
    // The locks stay until the threads of the store are gone as well: the kernel releases them.
    entrance?.door.close()
    process.exit(1)
  }
  process.on('SIGHUP', () => void daemon?.reload())
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop(signal))

  // Clients may come while the rest is loaded, which takes most of a start.
  entrance = takeEntrance(config)
  const { signal } = starting
  try {
    const { composeDaemon } = await import('./compose.js')
    daemon = await composeDaemon(config, { log, entrance, signal, environment: process.env })
  } catch (error) {
    entrance.close()
    if (error === signal.reason) process.exit(0)
    throw error
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  const hint = isBuilderError(error) && error.hint !== undefined ? `\nhint: ${error.hint}` : ''
  const text = isBuilderError(error) ? `${error.message}${hint}` : ((error as Error).stack ?? String(error))
  process.stderr.write(`${text}\n`, () => process.exit(1))
})
