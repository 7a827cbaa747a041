import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDaemonBench } from '../support/daemon-bench.js'

const isRoot = process.getuid?.() === 0

/** `nice value:policy` of every thread of a process and of those below it (proc_pid_stat(5), fields 19 and 41). */
function schedulingBelow(pid: number): ReadonlySet<string> {
  const tasks = readdirSync(`/proc/${pid}/task`).map((task) => join('/proc', String(pid), 'task', task))
  return new Set(
    tasks.flatMap((task) => {
      const stat = readFileSync(join(task, 'stat'), 'latin1')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      const children = readFileSync(join(task, 'children'), 'latin1').split(' ').filter(Boolean)
      return [
        `${fields[16]}:${fields[38]}`,
        ...children.flatMap((child) => [...schedulingBelow(Number(child))]),
      ]
    }),
  )
}

describe.skipIf(!isRoot)('a daemon that was given a priority (needs root)', () => {
  test.each([
    ['the nice value', ['nice', '-n', '5'], 'nice:policy 5:0'],
    ['the scheduling policy', ['chrt', '--batch', '0'], 'nice:policy 0:3'],
  ])('has %s in all its threads and its containers', async (_what, through, shown) => {
    await using bench = await createDaemonBench({ through })
    const dockerfile = `FROM base:1
COPY Dockerfile /
RUN read line < /proc/self/stat; set -- $line; shift 18; nice=$1; shift 22; echo "nice:policy $nice:$1"
`
    const { status, stderr, stdout } = await bench.client(['ctr-img', 'build', bench.context(dockerfile)])
      .ended
    expect([status, stdout + stderr]).toEqual([0, expect.stringContaining(shown)])
    // Threads of the background give way, to those of the daemon itself, too.
    const found = [...schedulingBelow(bench.daemon.child?.pid ?? 0)].filter((one) => !one.startsWith('15:'))
    expect(found).toEqual([shown.split(' ')[1]])
  })
})
