import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { RuntimeMount } from '../../packages/builder-daemon/src/ports/runtime.js'
import { newScratch, onlyPrograms, type RuntimeFixture, secretMount } from '../support/temporary-runtime.js'

/** Mounts of a RUN, and what they leave: nothing. */
export function mountSuite(get: () => RuntimeFixture): void {
  describe('mounts', () => {
    test('leave nothing of their mount points in the result', async () => {
      const layer = get().layer((directory) => {
        mkdirSync(join(directory, 'd'))
        writeFileSync(join(directory, 'd/x'), 'x')
      })
      const { output, upper } = await get().run(
        'ls /new/deep/place /newtmp; cat /run/secrets/s; echo ok > /o',
        {
          mounts: [
            {
              type: 'overlay',
              lowers: [layer],
              subpath: 'd',
              target: '/new/deep/place',
              readOnly: true,
              scratch: newScratch(get()),
            },
            { type: 'tmpfs', target: '/newtmp', size: 4096 },
            secretMount('/run/secrets/s', 'hidden\n'),
          ],
        },
      )
      expect(output).toBe('/new/deep/place:\nx\n\n/newtmp:\nhidden\n')
      expect(readdirSync(upper)).toEqual(['o'])
      expect(lstatSync(join(upper, 'o')).mode & 0o7777).toBe(0o644)
    })

    test('keep what the command writes beside them', async () => {
      const { upper } = await get().run('echo x > /new/deep/file', {
        mounts: [{ type: 'tmpfs', target: '/new/deep/place', size: undefined }],
      })
      expect(readdirSync(upper, { recursive: true, encoding: 'utf8' }).sort()).toEqual([
        'new',
        'new/deep',
        'new/deep/file',
      ])
    })

    test('do not change how a directory of the image looks when the command writes there', async () => {
      const layer = get().layer((directory) => {
        mkdirSync(join(directory, 'etc'))
        execFileSync('setfattr', ['-n', 'trusted.mark', '-v', 'kept', join(directory, 'etc')])
        chownSync(join(directory, 'etc'), 5, 6)
        chmodSync(join(directory, 'etc'), 0o2751)
        utimesSync(join(directory, 'etc'), 1e9, 1e9)
      })
      const lowers = [onlyPrograms(get()), layer]
      const { output } = await get().run('stat -c "%a %u %g %Y" /etc', { lowers })
      expect(output.trim()).toBe('2751 5 6 1000000000')
      const { upper } = await get().run('touch /etc/x', { lowers })
      const { mode, uid, gid } = lstatSync(join(upper, 'etc'))
      expect([mode & 0o7777, uid, gid]).toEqual([0o2751, 5, 6])
      const mark = execFileSync('getfattr', ['--only-values', '-n', 'trusted.mark', join(upper, 'etc')], {
        encoding: 'utf8',
      })
      expect(mark).toBe('kept')
      expect(readdirSync(join(upper, 'etc'))).toEqual(['x'])
    })

    test('the root directory looks like that of the layers', async () => {
      const layer = get().layer((directory) => chmodSync(directory, 0o751))
      const { upper } = await get().run('true', { lowers: [get().base, layer] })
      expect(lstatSync(upper).mode & 0o7777).toBe(0o751)
    })

    test('secrets are files of their owner, read-only, and nowhere on disk', async () => {
      const content = `s3cr3t-${Date.now()}`
      const running = get().run(
        'stat -c "%a %u %g" /etc/other; cat /etc/other > /dev/shm/x; ! echo y > /etc/other; sleep 1; test -n "$TOKEN"',
        {
          env: ['PATH=/bin', `TOKEN=${content}`],
          mounts: [{ ...secretMount('/etc/other', content), mode: 0o440, uid: 5, gid: 6 }],
        },
      )
      await sleep(700)
      const onDisk = (): string =>
        execFileSync('sh', ['-c', `grep -rl ${content} ${get().directory} || true`], { encoding: 'utf8' })
      expect(onDisk()).toBe('')
      const { output, exit, upper } = await running
      expect(exit).toEqual({ kind: 'exited', code: 0 })
      expect(output.split('\n')[0]).toBe('440 5 6')
      expect(readdirSync(upper)).toEqual([])
      expect(onDisk()).toBe('')
    })

    test('binds are the very directory, and read-only ones cannot be written', async () => {
      const source = join(get().directory, 'cache')
      mkdirSync(source, { recursive: true })
      const bind = (readOnly: boolean): RuntimeMount => ({ type: 'bind', source, target: '/cache', readOnly })
      await get().run('echo kept > /cache/f', { mounts: [bind(false)] })
      expect(readFileSync(join(source, 'f'), 'utf8')).toBe('kept\n')
      const { output, exit } = await get().run('cat /cache/f; ! touch /cache/g 2>/dev/null', {
        mounts: [bind(true)],
      })
      expect({ output, exit }).toEqual({ output: 'kept\n', exit: { kind: 'exited', code: 0 } })
    })

    test('a source that is a link is refused', async () => {
      const source = join(get().directory, 'link-to-etc')
      rmSync(source, { force: true })
      symlinkSync('/etc', source)
      await expect(
        get().run('ls /m', { mounts: [{ type: 'bind', source, target: '/m', readOnly: true }] }),
      ).rejects.toMatchObject({ code: 'ISB_STEP_FAILED', message: expect.stringContaining('symbolic link') })
    })

    test('writes into another file system are thrown away', async () => {
      const layer = get().layer((directory) => writeFileSync(join(directory, 'f'), 'old'))
      const scratch = newScratch(get())
      const { output } = await get().run('echo new > /m/f; cat /m/f', {
        mounts: [{ type: 'overlay', lowers: [layer], subpath: '', target: '/m', readOnly: false, scratch }],
      })
      expect(output).toBe('new\n')
      expect(readFileSync(join(get().dataRoot, layer, 'f'), 'utf8')).toBe('old')
    })

    test('one inside the other works in any order', async () => {
      const { output, upper } = await get().run('echo a > /x/f; cat /x/y/z/s; ls /x', {
        mounts: [
          secretMount('/x/y/z/s', 'deep\n'),
          { type: 'tmpfs', target: '/x/y', size: undefined },
          { type: 'tmpfs', target: '/x', size: undefined },
        ],
      })
      expect(output).toBe('deep\nf\ny\n')
      expect(readdirSync(upper)).toEqual([])
    })

    test('a target through a link lies where the link leads inside the image', async () => {
      const layer = get().layer((directory) => {
        mkdirSync(join(directory, 'real'))
        symlinkSync('/real', join(directory, 'alias'))
        symlinkSync('/run/missing/place', join(directory, 'dangling'))
      })
      const { output, upper } = await get().run('ls /real; ls /run/missing/place; ls -l /dangling', {
        lowers: [get().base, layer],
        mounts: [secretMount('/alias/f', 'x'), secretMount('/dangling/g', 'y')],
      })
      expect(output).toMatch(/^f\ng\n.*-> \/run\/missing\/place\n$/)
      expect(readdirSync(upper)).toEqual([])
    })

    test.each(['/proc', '/proc/sys', '/sys/kernel', '/dev/x', '/', '/toproc/x', '/in/../proc'])(
      'a target at %s is refused',
      async (target) => {
        const layer = get().layer((directory) => symlinkSync('/proc', join(directory, 'toproc')))
        const { upper, work, ...rest } = get().spec('true', {
          lowers: [get().base, layer],
          mounts: [{ type: 'tmpfs', target, size: undefined }],
        })
        await expect(
          get().runtime.run({ ...rest, upper, work }, new AbortController().signal),
        ).rejects.toMatchObject({
          code: 'ISB_ARGUMENT_INVALID',
          message: expect.stringContaining('cannot mount on'),
        })
        expect(readdirSync(upper)).toEqual([])
      },
    )

    test('a link inside a shared cache cannot lead a mount to /proc', async () => {
      const source = join(get().directory, 'shared-cache')
      mkdirSync(source, { recursive: true })
      rmSync(join(source, 'evil'), { force: true })
      symlinkSync('/proc', join(source, 'evil'))
      await expect(
        get().run('true', {
          mounts: [
            { type: 'bind', source, target: '/c', readOnly: false },
            { type: 'tmpfs', target: '/c/evil/x', size: undefined },
          ],
        }),
      ).rejects.toMatchObject({ code: 'ISB_ARGUMENT_INVALID' })
    })

    test('/dev/shm takes the size of a tmpfs mounted there', async () => {
      const { output } = await get().run('grep /dev/shm /proc/mounts', {
        mounts: [{ type: 'tmpfs', target: '/dev/shm', size: 1048576 }],
      })
      expect(output).toContain('size=1024k')
    })

    test('a used upper hides the stubs, and what had to be made there is gone again', async () => {
      const first = get().spec('mkdir /fresh; touch /fresh/kept')
      const signal = new AbortController().signal
      await get().runtime.run(first, signal)
      const again = get().spec('ls /fresh/place', {
        upper: first.upper,
        work: first.work,
        mounts: [{ type: 'tmpfs', target: '/fresh/place', size: undefined }],
      })
      expect(await get().runtime.run(again, signal)).toEqual({ kind: 'exited', code: 0 })
      expect(readdirSync(first.upper, { recursive: true, encoding: 'utf8' }).sort()).toEqual([
        'fresh',
        'fresh/kept',
      ])
    })

    test('127 layers are mounted and more are refused', async () => {
      const layers = Array.from({ length: 127 }, (_, n) =>
        get().layer((directory) => writeFileSync(join(directory, `f${n}`), '')),
      )
      const { output } = await get().run('ls / | grep -c "^f[0-9]"', {
        lowers: [get().base, ...layers.slice(1)],
      })
      expect(output.trim()).toBe('126')
      await expect(get().run('true', { lowers: [get().base, ...layers] })).rejects.toMatchObject({
        code: 'ISB_LIMIT_EXCEEDED',
        message: expect.stringContaining('127'),
      })
    })
  })
}
