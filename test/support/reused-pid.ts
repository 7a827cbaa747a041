import { existsSync, openSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createChildReaper } from '../../packages/builder-daemon/src/runtime/child-reaper.js'
import { spawnProgram } from '../../packages/builder-daemon/src/system/spawn.js'

// In a pid namespace of its own: a stray is killed, then another program gets its pid. Prints how that one ended.
const reaper = createChildReaper(process.pid)
const nothing = openSync('/dev/null', 'r+')
const start = (command: string): number =>
  spawnProgram('/bin/sh', ['sh', '-c', command], [], [nothing, nothing, nothing])

async function stray(): Promise<number> {
  const pid = start('kill -9 $$')
  while (existsSync(`/proc/${pid}`)) {
    reaper.collect()
    await sleep(5)
  }
  return pid
}

async function play(): Promise<void> {
  for (let attempt = 0; attempt < 20; attempt++) {
    const pid = await stray()
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(pid - 1))
    // A thread that began in between may have got it.
    if (start('sleep 0.2; exit 3') !== pid) continue
    const timer = setInterval(reaper.collect, 10)
    const [isRunning, status] = [reaper.isRunning(pid), await reaper.ended(pid)]
    clearInterval(timer)
    process.stdout.write(JSON.stringify({ isRunning, status }))
    return
  }
}

await play()
