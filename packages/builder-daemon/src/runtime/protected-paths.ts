/**
 * What of /proc and /sys a build must not see: moby's list (GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p),
 * isula-build's own, and the host's page tables. Paths that do not exist on a machine are skipped by every runtime.
 */
export const maskedPaths: readonly string[] = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/config.gz',
  '/proc/cpuirqstat',
  '/proc/fdenable',
  '/proc/fdstat',
  '/proc/fdthreshold',
  '/proc/files_panic_enable',
  '/proc/interrupts',
  '/proc/iomem_ext',
  '/proc/kbox',
  '/proc/kcore',
  '/proc/keys',
  '/proc/kpagecgroup',
  '/proc/kpagecount',
  '/proc/kpageflags',
  '/proc/latency_stats',
  '/proc/livepatch',
  '/proc/memstat',
  '/proc/net_namespace',
  '/proc/oom_extend',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/sig_catch',
  '/proc/signo',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
]

export const readonlyPaths: readonly string[] = [
  '/proc/bus',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
]
