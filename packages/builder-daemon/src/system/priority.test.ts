import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'
import { raiseAll, setNice } from './priority.js'

const asRoot = userInfo().uid === 0
const started: ChildProcess[] = []

afterEach(async () => {
  for (const child of started.splice(0)) {
    if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit')
  }
})

/** Field 19 of proc_pid_stat(5). */
function niceOf(pid: number | undefined): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])
}

describe.skipIf(!asRoot)('the nice value of a thread (needs root)', () => {
  test('is its own: what it starts is at 0', async () => {
    const shell = spawn(
      '/bin/sh',
      ['-c', 'read go; cut -d" " -f19 /proc/self/stat; cut -d" " -f19 /proc/$$/stat'],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    )
    started.push(shell)
    expect(setNice(shell.pid ?? 0, -5)).toBe(true)
    expect(niceOf(shell.pid)).toBe(-5)
    shell.stdin.end('go\n')
    expect(await text(shell.stdout)).toBe('0\n-5\n')
  })

  test('can be given back, and be higher than 0', async () => {
    const child = spawn('/bin/sleep', ['100'], { stdio: 'ignore' })
    started.push(child)
    for (const nice of [-5, 0, 7]) {
      expect(setNice(child.pid ?? 0, nice)).toBe(true)
      expect(niceOf(child.pid)).toBe(nice)
    }
  })

  test('of a process that is gone is no error', async () => {
    const child = spawn('/bin/true', { stdio: 'ignore' })
    await once(child, 'exit')
    expect(setNice(child.pid ?? 0, -5)).toBe(false)
  })
  test('is raised though others of the process have ended', async () => {
    const gone = spawn('/bin/true', { stdio: 'ignore' })
    await once(gone, 'exit')
    const [first, last] = [1, 2].map(() => spawn('/bin/sleep', ['100'], { stdio: 'ignore' }))
    for (const child of [first, last]) if (child !== undefined) started.push(child)
    raiseAll([first?.pid ?? 0, gone.pid ?? 0, last?.pid ?? 0], -5)
    expect([niceOf(first?.pid), niceOf(last?.pid)]).toEqual([-5, -5])
  })
})
