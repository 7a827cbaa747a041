import type { Capability } from './capabilities.js'

/**
 * Which system calls a build container may make: the rules of moby's default profile
 * (github.com/moby/profiles/seccomp, v0.2.3) with one difference. Calls that profile does not know
 * fail with ENOSYS instead of EPERM, so that a newer libc falls back to an older call; calls that are
 * known and refused still fail with EPERM.
 */
export const seccompProfileVersion = 'moby-0.2.3'

const words = (text: string): readonly string[] => text.trim().split(/\s+/)

const allowedAlways: readonly string[] = [
  ...words(`
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek close close_range
    dup dup2 dup3 fcntl fcntl64 flock ioctl pipe pipe2 splice tee vmsplice sendfile sendfile64
    copy_file_range readahead fadvise64 fadvise64_64 fallocate ftruncate ftruncate64 truncate truncate64
    sync syncfs sync_file_range fsync fdatasync msync cachestat`),
  ...words(`
    open openat openat2 creat access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64
    newfstatat statx statfs statfs64 fstatfs fstatfs64 statmount listmount getdents getdents64 getcwd chdir
    fchdir mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat readlink readlinkat rename renameat
    renameat2 unlink unlinkat umask chmod fchmod fchmodat fchmodat2 chown chown32 lchown lchown32 fchown
    fchown32 fchownat utime utimes utimensat utimensat_time64 futimesat name_to_handle_at`),
  ...words(`
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr
    flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat`),
  ...words(`
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark eventfd eventfd2 signalfd
    signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 epoll_create
    epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 poll ppoll
    ppoll_time64 select _newselect pselect6 pselect6_time64 io_setup io_destroy io_submit io_cancel
    io_getevents io_pgetevents io_pgetevents_time64`),
  ...words(`
    brk mmap mmap2 munmap mremap mprotect madvise mincore mlock mlock2 mlockall munlock munlockall mseal
    membarrier memfd_create memfd_secret remap_file_pages pkey_alloc pkey_free pkey_mprotect map_shadow_stack
    process_mrelease process_vm_readv process_vm_writev`),
  ...words(`
    fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill pause alarm getitimer
    setitimer nanosleep clock_nanosleep clock_nanosleep_time64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_adjtime clock_adjtime64 adjtimex gettimeofday time times timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 pidfd_open pidfd_send_signal
    ptrace seccomp prctl uretprobe rseq restart_syscall landlock_create_ruleset landlock_add_rule
    landlock_restrict_self`),
  ...words(`
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn`),
  ...words(`
    futex futex_time64 futex_wait futex_wake futex_requeue futex_waitv get_robust_list set_robust_list
    set_tid_address get_thread_area set_thread_area gettid getcpu sched_yield sched_getaffinity
    sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler
    sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
    sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set`),
  ...words(`
    getpid getppid getpgid getpgrp setpgid getsid setsid getuid getuid32 geteuid geteuid32 getgid getgid32
    getegid getegid32 getresuid getresuid32 getresgid getresgid32 setuid setuid32 setgid setgid32 setreuid
    setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid
    setfsgid32 getgroups getgroups32 setgroups setgroups32 capget capset getrlimit setrlimit ugetrlimit
    prlimit64 getrusage sysinfo uname getrandom`),
  ...words(`
    socketpair socketcall bind listen accept accept4 connect shutdown getsockname getpeername getsockopt
    setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64`),
  ...words(`
    ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
    mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64`),
  'riscv_hwprobe',
]

/** Allowed once one of these capabilities is in the bounding set. */
const allowedWith: readonly (readonly [Capability, readonly string[]])[] = [
  [
    'CAP_SYS_ADMIN',
    words(`
      bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
      lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
      quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare`),
  ],
  ['CAP_DAC_READ_SEARCH', ['open_by_handle_at']],
  ['CAP_SYS_BOOT', ['reboot']],
  ['CAP_SYS_CHROOT', ['chroot']],
  ['CAP_SYS_MODULE', words('delete_module init_module finit_module')],
  ['CAP_SYS_PACCT', ['acct']],
  ['CAP_SYS_PTRACE', words('kcmp pidfd_getfd process_madvise')],
  ['CAP_SYS_RAWIO', words('iopl ioperm')],
  ['CAP_SYS_TIME', words('settimeofday stime clock_settime clock_settime64')],
  ['CAP_SYS_TTY_CONFIG', ['vhangup']],
  ['CAP_SYS_NICE', words('get_mempolicy mbind set_mempolicy set_mempolicy_home_node')],
  ['CAP_SYSLOG', ['syslog']],
  ['CAP_BPF', ['bpf']],
  ['CAP_PERFMON', ['perf_event_open']],
]

/** Known, and refused to everybody. */
const refused: readonly string[] = words(`
  _sysctl add_key afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle
  io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lock migrate_pages
  modify_ldt move_pages mpx nfsservctl oldfstat oldlstat oldolduname oldstat olduname open_tree_attr
  pivot_root prof profil putpmsg query_module request_key security sgetmask ssetmask stty swapoff swapon
  sysfs sysmips tuxcall ulimit uselib userfaultfd ustat vm86 vm86old vserver`)

const archCalls: Readonly<Record<string, readonly string[]>> = {
  x64: words('arch_prctl modify_ldt'),
  arm64: words('arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls'),
  ppc64: words('sync_file_range2 swapcontext'),
  s390x: words('s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr'),
  riscv64: ['riscv_flush_icache'],
}

/** Native architecture first; keys are Node's `process.arch`. */
const architectures: Readonly<Record<string, readonly string[]>> = {
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
  ppc64: ['SCMP_ARCH_PPC64LE'],
  s390x: ['SCMP_ARCH_S390X', 'SCMP_ARCH_S390'],
  riscv64: ['SCMP_ARCH_RISCV64'],
  loong64: ['SCMP_ARCH_LOONGARCH64'],
}

const EPERM = 1
const ENOSYS = 38

/** OCI runtime spec, config-linux.md "Seccomp". */
export interface SeccompArgument {
  readonly index: number
  readonly value: number
  readonly valueTwo?: number
  readonly op: 'SCMP_CMP_EQ' | 'SCMP_CMP_LT' | 'SCMP_CMP_GT' | 'SCMP_CMP_MASKED_EQ'
}
export interface SeccompRule {
  readonly names: readonly string[]
  readonly action: 'SCMP_ACT_ALLOW' | 'SCMP_ACT_ERRNO'
  readonly errnoRet?: number
  readonly args?: readonly SeccompArgument[]
}
export interface SeccompProfile {
  readonly defaultAction: 'SCMP_ACT_ERRNO'
  readonly defaultErrnoRet: number
  readonly architectures?: readonly string[]
  readonly syscalls: readonly SeccompRule[]
}

const AF_ALG = 38
const AF_VSOCK = 40

/** PER_LINUX, PER_LINUX32, their UNAME26 forms, and the query (personality(2)). */
const personalities = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff]

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2)). */
const namespaceFlags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]

/** `architecture` is Node's name of the machine's; `capabilities` is the bounding set. */
export function seccompProfile(architecture: string, capabilities: readonly Capability[]): SeccompProfile {
  const allowed = new Set([...allowedAlways, ...(archCalls[architecture] ?? [])])
  const gated = new Set<string>()
  for (const [capability, names] of allowedWith) {
    for (const name of names) (capabilities.includes(capability) ? allowed : gated).add(name)
  }
  const conditional = capabilities.includes('CAP_SYS_ADMIN') ? [] : cloneRules(architecture)
  const denied = [...new Set([...refused, ...gated])].filter(
    (name) => !allowed.has(name) && name !== 'clone' && name !== 'clone3',
  )
  const supported = architectures[architecture]
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: ENOSYS,
    ...(supported === undefined ? {} : { architectures: supported }),
    syscalls: [
      allow([...allowed]),
      allow(['socket'], { index: 0, value: AF_ALG, op: 'SCMP_CMP_LT' }),
      allow(['socket'], { index: 0, value: AF_ALG + 1, op: 'SCMP_CMP_EQ' }),
      allow(['socket'], { index: 0, value: AF_VSOCK, op: 'SCMP_CMP_GT' }),
      refuse(['socket'], EPERM, { index: 0, value: AF_ALG, op: 'SCMP_CMP_EQ' }),
      refuse(['socket'], EPERM, { index: 0, value: AF_VSOCK, op: 'SCMP_CMP_EQ' }),
      ...personalities.map((value) => allow(['personality'], { index: 0, value, op: 'SCMP_CMP_EQ' })),
      ...conditional,
      refuse(denied, EPERM),
    ],
  }
}

/** clone without new namespaces; clone3 hides its flags in memory, so libc is sent back to clone. */
function cloneRules(architecture: string): readonly SeccompRule[] {
  const index = architecture === 's390x' ? 1 : 0
  const all = namespaceFlags.reduce((mask, flag) => mask + flag, 0)
  return [
    allow(['clone'], { index, value: all, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }),
    ...namespaceFlags.map((flag) =>
      refuse(['clone'], EPERM, { index, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }),
    ),
    refuse(['clone3'], ENOSYS),
  ]
}

function allow(names: readonly string[], ...args: SeccompArgument[]): SeccompRule {
  return { names, action: 'SCMP_ACT_ALLOW', ...(args.length === 0 ? {} : { args }) }
}

function refuse(names: readonly string[], errnoRet: number, ...args: SeccompArgument[]): SeccompRule {
  return { names, action: 'SCMP_ACT_ERRNO', errnoRet, ...(args.length === 0 ? {} : { args }) }
}
