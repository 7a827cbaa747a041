import { existsSync, lstatSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { newScratch, onlyPrograms, type RuntimeFixture } from '../support/temporary-runtime.js'

/** What a command, or a hostile image, cannot do. */
export function confinementSuite(get: () => RuntimeFixture): void {
  describe('rights', () => {
    const fourteen = '00000000a80425fb'

    test('root has the 14 capabilities of Docker and can inherit none (CVE-2022-24769)', async () => {
      const { output } = await get().run('grep Cap /proc/self/status')
      expect(capabilities(output)).toEqual({
        CapInh: '0'.repeat(16),
        CapPrm: fourteen,
        CapEff: fourteen,
        CapBnd: fourteen,
        CapAmb: '0'.repeat(16),
      })
    })

    test('another user has none and cannot read what is root’s', async () => {
      const secret = get().layer((directory) => {
        mkdirSync(join(directory, 'etc'))
        writeFileSync(join(directory, 'etc/shadow'), 'root:x', { mode: 0o600 })
      })
      const { output } = await get().run('grep Cap /proc/self/status; cat /etc/shadow || echo refused', {
        lowers: [get().base, secret],
        user: { uid: 65534, gid: 65534, additionalGids: [] },
      })
      expect(capabilities(output)).toMatchObject({
        CapPrm: '0'.repeat(16),
        CapEff: '0'.repeat(16),
        CapBnd: fourteen,
      })
      expect(output).toContain('refused')
      expect(output).not.toContain('root:x')
    })

    test('added capabilities are added and unknown ones refused', async () => {
      const { output } = await get().run('grep Cap /proc/self/status', { addCapabilities: ['net_admin'] })
      expect(capabilities(output)['CapEff']).toBe('00000000a80435fb')
      await expect(get().run('true', { addCapabilities: ['CAP_EVERYTHING'] })).rejects.toMatchObject({
        code: 'ISB_ARGUMENT_INVALID',
      })
    })

    test('devices can be made but not used', async () => {
      const { output, exit } = await get().run(
        'mknod /sda b 8 0 && ! cat /sda > /dev/null 2>&1 && rm /sda; echo x > /dev/null; head -c 3 /dev/zero | wc -c',
      )
      expect(exit).toEqual({ kind: 'exited', code: 0 })
      expect(output.trim()).toBe('3')
      const inside = await get().run('mknod /dev/sda b 8 0 && ! cat /dev/sda > /dev/null 2>&1')
      expect(inside.exit).toEqual({ kind: 'exited', code: 0 })
    })

    test('mounting and making user namespaces is refused', async () => {
      const { exit } = await get().run('! mount -t tmpfs none /tmp 2>/dev/null && ! umount /proc 2>/dev/null')
      expect(exit).toEqual({ kind: 'exited', code: 0 })
    })

    test('what moby and isula-build mask has no content (GHSA-6fw5-f8r9-fgfm)', async () => {
      const { maskedPaths } = await import('../../packages/builder-daemon/src/runtime/protected-paths.js')
      const script = maskedPaths
        .map((path) => `if [ -d ${path} ]; then ls -A ${path}; elif [ -e ${path} ]; then cat ${path}; fi`)
        .join('; ')
      const { output, exit } = await get().run(script)
      expect({ output, exit }).toEqual({ output: '', exit: { kind: 'exited', code: 0 } })
      expect(maskedPaths.filter((path) => existsSync(path)).length).toBeGreaterThan(3)
    })

    test('kernel settings and /sys cannot be written', async () => {
      const { exit } = await get().run(
        '! echo 1 > /proc/sys/vm/drop_caches && ! echo b > /proc/sysrq-trigger && ! mkdir /sys/fs/cgroup/x && ! touch /sys/x',
      )
      expect(exit).toEqual({ kind: 'exited', code: 0 })
    })

    test.skipIf(!existsSync('/usr/bin/perl') || process.arch !== 'x64')(
      'the system calls moby refuses are refused, in the way libc understands',
      async () => {
        const layer = get().layer((directory) => {
          for (const name of ['lib', 'lib64']) symlinkSync(`usr/${name}`, join(directory, name))
          mkdirSync(join(directory, 'usr'))
        })
        const calls = {
          'socket AF_ALG': '41,38,5,0',
          'socket AF_VSOCK': '41,40,1,0',
          'socket AF_INET': '41,2,1,0',
          io_uring_setup: '425,1,0',
          keyctl: '250,0,0,0',
          unshare: '272,0x10000000',
          'clone NEWUSER': '56,0x10000000,0,0,0,0',
          mount: '165,0,0,0,0,0',
          bpf: '321,0,0,0',
          perf_event_open: '298,0,0,0,0,0',
          userfaultfd: '323,0',
          clone3: '435,0,0',
          'a call of the future': '999',
        }
        const script = Object.entries(calls)
          .map(([name, call]) => `print "${name}=", (syscall(${call}) < 0 ? $!+0 : 0), "\\n";`)
          .join(' ')
        const { output } = await get().run(['/usr/bin/perl', '-e', script], {
          lowers: [get().base, layer],
          mounts: [{ type: 'bind', source: '/usr', target: '/usr', readOnly: true }],
        })
        const EPERM = '1'
        const ENOSYS = '38'
        expect(
          Object.fromEntries(
            output
              .trim()
              .split('\n')
              .map((line) => line.split('=')),
          ),
        ).toEqual({
          'socket AF_ALG': EPERM,
          'socket AF_VSOCK': EPERM,
          'socket AF_INET': '0',
          io_uring_setup: EPERM,
          keyctl: EPERM,
          unshare: EPERM,
          'clone NEWUSER': EPERM,
          mount: EPERM,
          bpf: EPERM,
          perf_event_open: EPERM,
          userfaultfd: EPERM,
          clone3: ENOSYS,
          'a call of the future': ENOSYS,
        })
      },
    )
  })

  describe('hostile images', () => {
    const snapshot = (directory: string): string =>
      readdirSync(directory, { recursive: true, encoding: 'utf8' })
        .sort()
        .map((name) => {
          const { mode, size, mtimeMs } = lstatSync(join(directory, name))
          return `${name} ${mode} ${size} ${mtimeMs}`
        })
        .join('\n')

    const canary = (): string => {
      const directory = join(get().directory, 'canary')
      rmSync(directory, { recursive: true, force: true })
      mkdirSync(join(directory, 'sub'), { recursive: true })
      writeFileSync(join(directory, 'victim'), 'precious')
      writeFileSync(join(directory, 'empty'), '')
      return directory
    }

    test.each(['dev', 'proc', 'sys', 'etc'])(
      '/%s as a link to a directory of the host (CVE-2026-41579)',
      async (name) => {
        const place = canary()
        for (const target of [place, `../../../../../../../..${place}`]) {
          const before = snapshot(place)
          const layer = get().layer((directory) => symlinkSync(target, join(directory, name)))
          const hostile = [onlyPrograms(get()), layer]
          const { exit, upper } = await get().run('true', { lowers: hostile })
          expect(exit).toEqual({ kind: 'exited', code: 0 })
          expect(snapshot(place)).toBe(before)
          expect(readdirSync(upper)).toEqual([])
        }
      },
    )

    test('/etc/resolv.conf as a link to a new file of the host (CVE-2024-45310)', async () => {
      const place = canary()
      const before = snapshot(place)
      const layer = get().layer((directory) => {
        mkdirSync(join(directory, 'etc'))
        symlinkSync(join(place, 'newfile'), join(directory, 'etc/resolv.conf'))
        symlinkSync(`../../../../../..${place}/other`, join(directory, 'etc/hosts'))
      })
      const { output, upper } = await get().run('wc -l < /etc/hosts', { lowers: [get().base, layer] })
      expect(Number(output)).toBeGreaterThan(0)
      expect(snapshot(place)).toBe(before)
      expect(readdirSync(upper)).toEqual([])
    })

    test('mount points removed by the command take nothing of the host along (CVE-2024-23652)', async () => {
      const place = canary()
      const before = snapshot(place)
      const { exit, upper } = await get().run(`rm -rf /m; umount /m/empty; ln -sfn ${place} /m2; true`, {
        mounts: [{ type: 'tmpfs', target: '/m/empty', size: undefined }],
      })
      expect(exit).toEqual({ kind: 'exited', code: 0 })
      expect(snapshot(place)).toBe(before)
      expect(readdirSync(upper)).toEqual(['m2'])
    })

    test.each(['/proc/self/fd/7', '/proc/1/root', '/link'])(
      'a working directory at %s (CVE-2024-21626)',
      async (cwd) => {
        const layer = get().layer((directory) => symlinkSync('/proc/self/fd/7', join(directory, 'link')))
        await expect(
          get().run('cat ../../../../etc/hostname', { lowers: [get().base, layer], cwd }),
        ).rejects.toMatchObject({ code: 'ISB_ARGUMENT_INVALID', message: expect.stringContaining('/proc') })
      },
    )

    test('a link to / as the source of a mount is the root of its own file system (CVE-2024-1753)', async () => {
      const layer = get().layer((directory) => {
        symlinkSync('/', join(directory, 'rootdir'))
        symlinkSync('../../../../..', join(directory, 'updir'))
        writeFileSync(join(directory, 'mark'), 'inside')
      })
      for (const subpath of ['rootdir', 'updir']) {
        const scratch = newScratch(get())
        const { output } = await get().run('ls /m; touch /m/pwn', {
          mounts: [{ type: 'overlay', lowers: [layer], subpath, target: '/m', readOnly: false, scratch }],
        })
        expect(output.trim().split('\n').sort()).toEqual(['mark', 'rootdir', 'updir'])
      }
      expect(existsSync('/pwn')).toBe(false)
    })
  })
}

function capabilities(status: string): Record<string, string> {
  return Object.fromEntries(
    [...status.matchAll(/^(Cap\w+):\s*(\w+)$/gm)].map(([, name, mask]) => [name, mask]),
  )
}
