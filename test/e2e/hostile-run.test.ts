import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { basename } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createHostileBench, type HostileBench } from '../support/hostile-bench.js'
import { type Call, syscallProbe } from '../support/syscall-probe.js'

/** Commands and images that try to get out of a RUN (S01 to S10). */

const isRoot = process.getuid?.() === 0
const allowed = '00000000a80425fb'

describe.skipIf(!isRoot)('a hostile RUN', () => {
  let hostile: HostileBench

  beforeAll(async () => {
    hostile = await createHostileBench({ env: { CANARY_ENV: 'of-the-daemon' } })
  })
  afterEach(() => hostile.expectUnharmed())
  afterAll(() => hostile[Symbol.asyncDispose]())

  /** What the last RUN of a build wrote. */
  async function output(dockerfile: string, files: Readonly<Record<string, Buffer>> = {}): Promise<string> {
    const text = await hostile.accepted(...hostile.buildOf(dockerfile, files), '--no-cache')
    const lines = text.split('\n')
    const last = lines.findLastIndex((line) => /^STEP +\d+: RUN/.test(line))
    const end = lines.findIndex((line, i) => i > last && line.startsWith('Committed stage'))
    return lines.slice(last + 1, end).join('\n')
  }

  describe('the working directory (S01, CVE-2024-21626)', () => {
    test('is never a descriptor of the host, and the error names the line', async () => {
      for (let fd = 3; fd <= 20; fd += 1) {
        const dockerfile = `FROM base:1\nWORKDIR /proc/self/fd/${fd}\nRUN cat ../../../../${hostile.canary}/secret\n`
        const error = await hostile.refused({ message: /inside \/proc/ }, ...hostile.buildOf(dockerfile))
        expect(error).toMatch(/--> Dockerfile:[23]:/)
      }
    })

    test('through a link of the image or from its configuration is refused as well', async () => {
      const link = await hostile.imported({ name: 'x', type: '2', link: '/proc/self/fd/7' })
      const read = `RUN cat ../../../..${hostile.canary}/secret\n`
      await hostile.refused(
        { message: /Dockerfile:/ },
        ...hostile.buildOf(`FROM ${link}\nWORKDIR /x\n${read}`),
      )
      await hostile.accepted(...hostile.buildOf('FROM base:1\nWORKDIR /proc/self/fd/8\n'), '-t', 'cwd:1')
      await hostile.refused({ message: /inside \/proc/ }, ...hostile.buildOf(`FROM cwd:1\n${read}`))
    })

    test('and the command own nothing but 0, 1 and 2', async () => {
      const list =
        "FROM base:1\nRUN for fd in /proc/self/fd/*; do readlink $fd; done | grep -v '^/dev/null\\|^pipe:' || true\n"
      expect(await output(list)).not.toMatch(/\//)
    })
  })

  describe('mounts (S02)', () => {
    test.each(['/proc', '/proc/sys', '/sys', '/sys/fs/cgroup', '/dev', '/dev/pts', '/', '/a/../proc'])(
      'are not made at %s',
      async (target) => {
        for (const type of ['cache', 'tmpfs', 'bind']) {
          const dockerfile = `FROM base:1\nRUN --mount=type=${type},target=${target} true\n`
          const error = await hostile.refused({ message: /mount/i }, ...hostile.buildOf(dockerfile))
          expect(error).toContain('--> Dockerfile:2:')
        }
      },
    )

    test('stay what they are while builds swap links in a shared cache', async () => {
      const swap = `i=0; while [ $i -lt 150 ]; do ln -sfn /proc /c/p; rm -rf /c/p; mkdir -p /c/p/sys; i=$((i+1)); done`
      const look =
        '[ "$(head -c 1 /proc/kcore 2>/dev/null | wc -c)" = 0 ] && ! echo h 2>/dev/null > /proc/sysrq-trigger && ! echo x 2>/dev/null > /proc/sys/kernel/core_pattern && echo masked'
      const builds = Array.from({ length: 6 }, (_, i) =>
        output(
          `FROM base:1\nARG N=${i}\nRUN --mount=type=cache,id=shared,target=/c --mount=type=tmpfs,target=/c/t (${swap}); ${look}\n`,
        ),
      )
      for (const text of await Promise.all(builds)) expect(text).toContain('masked')
    })
  })

  describe('an image whose directories are links (S03, S04)', () => {
    test.each(['dev', 'proc', 'sys', 'etc', 'tmp'])('/%s leads nowhere', async (name) => {
      const { canary, climbing } = hostile
      for (const link of [canary, climbing]) {
        const image = await hostile.imported({ name, type: '2', pax: { linkpath: link } })
        const end = await hostile.client(
          ...hostile.buildOf(`FROM ${image}\nRUN true; ls /${name}/. || true\n`),
        )
        expect([0, 1]).toContain(end.status)
      }
    })

    test('/etc/resolv.conf, /etc/hosts and mount targets make nothing on the host', async () => {
      const { canary } = hostile
      const image = await hostile.imported(
        { name: 'etc/resolv.conf', type: '2', link: `${canary}/newfile` },
        { name: 'etc/hosts', type: '2', link: `${canary}/victim` },
        { name: 'm', type: '2', link: canary },
      )
      const steps = `FROM ${image}
RUN echo x >> /etc/hosts; echo y > /etc/resolv.conf; true
RUN --mount=type=tmpfs,target=/m/hollow --mount=type=cache,target=/m/new rm -rf /m/empty /m/hollow /m/secret; true
`
      await hostile.client(...hostile.buildOf(steps))
    })
  })

  test('no shell overwrites the runtime or the daemon (S05, CVE-2019-5736)', async () => {
    const programs = ['runc', 'crun'].flatMap((name) => {
      try {
        return [realpathSync(execFileSync('which', [name], { encoding: 'utf8' }).trim())]
      } catch {
        return []
      }
    })
    const files = [...programs, readlinkSync(`/proc/${hostile.bench.daemon.child?.pid}/exe`)]
    const digests = () => files.map((file) => createHash('sha256').update(readFileSync(file)).digest('hex'))
    expect(programs).not.toEqual([])
    const before = digests()
    const image = await hostile.imported(
      { name: 'evil', content: '#!/proc/self/exe\n', mode: 0o755 },
      { name: 'link', type: '2', link: '/proc/self/exe' },
    )
    const shells = ['["/evil","-c"]', '["/link","-c"]', '["/proc/self/exe","-c"]']
    for (const shell of shells) {
      const { status } = await hostile.client(...hostile.buildOf(`FROM ${image}\nSHELL ${shell}\nRUN true\n`))
      expect(status).not.toBe(0)
    }
    await hostile.client(
      ...hostile.buildOf(
        `FROM ${image}\nRUN for p in /proc/[0-9]*; do echo x > $p/exe; for f in $p/fd/*; do echo x >> $f; done; done 2>/dev/null; true\n`,
      ),
    )
    expect(digests()).toEqual(before)
  })

  describe('rights', () => {
    test('are the documented capabilities, none of them to be handed down (S06, CVE-2022-24769)', async () => {
      const text = await output('FROM base:1\nRUN grep Cap /proc/self/status\n')
      const caps = Object.fromEntries(text.split('\n').map((line) => line.split(/:\s+/)))
      expect(caps).toMatchObject({
        ...{ CapInh: '0000000000000000', CapAmb: '0000000000000000' },
        ...{ CapBnd: allowed, CapEff: allowed, CapPrm: allowed },
      })
    })

    test('of another user are none: what only root may read stays unread', async () => {
      const image = await hostile.imported({ name: 'etc/shadow', content: 'shadow-content', mode: 0o600 })
      const dockerfile = `FROM ${image}\nUSER 65534\nRUN grep CapEff /proc/self/status; cat /etc/shadow; echo $?\n`
      const text = await output(dockerfile)
      expect(text).toMatch(/CapEff:\s+0000000000000000/)
      expect(text).not.toContain('shadow-content')
      expect(text).toContain('\n1')
    })

    test('come with the groups of the image and no others (S07, CVE-2022-36109)', async () => {
      const image = await hostile.imported(
        { name: 'etc/passwd', content: 'root:x:0:0::/:\napp:x:1000:1001::/:\n' },
        { name: 'etc/group', content: 'root:x:0:\none:x:1:app\nfifty:x:50:x,app\nother:x:60:x\n' },
      )
      const groups = async (user: string) =>
        (await output(`FROM ${image}\nUSER ${user}\nRUN id -u; id -g; id -G\n`)).split('\n')
      const [uid, gid, all] = await groups('app')
      expect([uid, gid, all?.split(' ').sort()]).toEqual(['1000', '1001', ['1', '1001', '50']])
      expect(await groups('app:50')).toEqual(['1000', '50', '50'])
      expect(await groups('4242')).toEqual(['4242', '0', '0'])
    })
  })

  test('side channels of the kernel are masked (S08)', async () => {
    const masked = [
      ...[
        '/proc/acpi',
        '/proc/asound',
        '/proc/interrupts',
        '/proc/kcore',
        '/proc/keys',
        '/proc/latency_stats',
      ],
      ...['/proc/sched_debug', '/proc/scsi', '/proc/timer_list', '/proc/timer_stats', '/sys/firmware'],
      ...['/sys/devices/virtual/powercap', '/proc/config.gz'],
      '/sys/devices/system/cpu/cpu0/thermal_throttle',
    ]
    const commands = masked.map(
      (path) =>
        `if [ -d ${path} ]; then ls -A ${path}; elif [ -e ${path} ]; then head -c 64 ${path} 2>/dev/null; fi | wc -c`,
    )
    const text = await output(`FROM base:1\nRUN ${commands.join('; ')}\n`)
    expect(text.split('\n')).toEqual(masked.map(() => '0'))
  })

  describe('the network (S09, CVE-2020-15257)', () => {
    test('of `none` is lo alone', async () => {
      expect(await output('FROM base:1\nRUN --network=none ls /sys/class/net\n')).toBe('lo')
      expect((await output('FROM base:1\nRUN --network=none cat /proc/net/dev')).match(/^ *\w+:/gm)).toEqual([
        '    lo:',
      ])
    })

    test('has nothing of the daemon to connect to: no abstract socket and no TCP port', () => {
      const inodes = new Set(
        ownProcesses(hostile.bench.daemon.child?.pid ?? 0).flatMap((pid) =>
          readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
            try {
              return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? []
            } catch {
              // Closed meanwhile.
              return []
            }
          }),
        ),
      )
      expect(inodes.size).toBeGreaterThan(0)
      const own = (table: string, column: number) =>
        readFileSync(`/proc/net/${table}`, 'latin1')
          .split('\n')
          .slice(1)
          .map((line) => line.trim().split(/\s+/))
          .filter((fields) => inodes.has(fields[column] ?? ''))
      // 00010000 is a listener; by which name it was bound is the daemon's business.
      expect(own('unix', 6).filter((fields) => fields[3] === '00010000')).not.toEqual([])
      expect(own('unix', 6).filter((fields) => fields[7]?.startsWith('@') === true)).toEqual([])
      for (const table of ['tcp', 'tcp6', 'udp', 'udp6']) expect(own(table, 9)).toEqual([])
    })
  })

  describe('system calls (S10)', () => {
    const newUser = 0x10000000
    const refused: Readonly<Record<string, Call>> = {
      'socket(AF_ALG)': [41, 38, 5, 0],
      'socket(AF_VSOCK)': [41, 40, 1, 0],
      io_uring_setup: [425, 1, 0],
      keyctl: [250, 0, 0, 0],
      add_key: [248, 0, 0, 0],
      request_key: [249, 0, 0, 0],
      'unshare(NEWUSER)': [272, newUser],
      'clone(NEWUSER)': [56, newUser | 17],
      clone3: [435, 0, 0],
      setns: [308, 0, 0],
      mount: [165, 0, 0, 0, 0],
      umount2: [166, 0, 0],
      pivot_root: [155, 0, 0],
      fsopen: [430, 0, 0],
      open_tree: [428, 0, 0, 0],
      move_mount: [429, 0, 0, 0],
      bpf: [321, 0, 0, 0],
      perf_event_open: [298, 0, 0, 0],
      userfaultfd: [323, 0],
      open_by_handle_at: [304, 0, 0, 0],
      init_module: [175, 0, 0, 0],
      finit_module: [313, 0, 0, 0],
      kexec_load: [246, 0, 0, 0],
      reboot: [169, 0, 0, 0],
      swapon: [167, 0, 0],
      quotactl: [179, 0, 0, 0],
      settimeofday: [164, 0, 0],
      acct: [163, 0],
      iopl: [172, 3],
    }

    test.skipIf(process.arch !== 'x64')('of the kernel’s weak spots are refused', async () => {
      const calls = [[39], ...Object.values(refused), [41, 1, 1, 0], [272, 0]] as readonly Call[]
      const text = await output(
        `FROM base:1\nCOPY --chmod=755 probe /probe\nRUN /probe | hexdump -v -e '1/4 "%d\\n"'\n`,
        { probe: syscallProbe(calls) },
      )
      const [pid = 0, ...results] = text.split('\n').map(Number)
      const [socket = -1, unshare = -1] = results.splice(-2)
      // The probe reports what it sees: calls that are allowed succeed.
      expect(pid).toBeGreaterThan(0)
      expect(socket).toBeGreaterThan(2)
      expect([0, -1]).toContain(unshare)
      const names = Object.keys(refused)
      const outcome = Object.fromEntries(names.map((name, i) => [name, results[i]]))
      expect(outcome['clone3']).toBe(-38)
      const open = names.filter((name) => ![-1, -38].includes(outcome[name] ?? 0))
      expect(open.map((name) => `${name}: ${outcome[name]}`)).toEqual([])
    })

    test('that threads of glibc need work', async () => {
      const program = realpathSync('/usr/bin/xz')
      const libraries = execFileSync('ldd', [program], { encoding: 'utf8' }).match(/\/\S+/g) ?? []
      const files = Object.fromEntries(
        [program, ...libraries].map((path) => [basename(path), readFileSync(realpathSync(path))]),
      )
      const copies = libraries.map((path) => `COPY --chmod=755 ${basename(path)} ${path}`)
      const text = await output(
        `FROM base:1\nCOPY --chmod=755 ${basename(program)} /xz\n${copies.join('\n')}\nRUN head -c 3000000 /dev/zero | /xz -T2 --block-size=1MiB | /xz -dc -T2 | wc -c\n`,
        files,
      )
      expect(text).toBe('3000000')
    })
  })

  test('the environment is that of the image and nothing of the daemon (S23)', async () => {
    const text = await output('FROM base:1\nENV A=1\nARG B=2\nRUN env\n')
    const names = text.split('\n').map((line) => line.split('=')[0])
    expect(names.sort()).toEqual(['A', 'B', 'HOME', 'PATH', 'PWD', 'SHLVL'])
    expect(text).not.toContain('CANARY_ENV')
  })
})

function ownProcesses(pid: number): readonly number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'latin1').split(' ').filter(Boolean).map(Number),
  )
  return [pid, ...children.flatMap(ownProcesses)]
}
