import { readdirSync } from 'node:fs'
import { getHeapStatistics } from 'node:v8'
import type { DaemonConfig, RegistryLists } from '../config/daemon-config.js'
import type { DaemonInfo, DaemonVersion } from '../rpc/daemon-facts.js'
import { backingFileSystem, hostArchitecture, memoryInfo } from '../system/host-info.js'

export function daemonInfo(config: DaemonConfig, registries: RegistryLists, builds: number): DaemonInfo {
  const memory = process.memoryUsage()
  const heap = getHeapStatistics()
  return {
    ...memoryInfo(),
    storageDriver: config.storageDriver,
    backingFilesystem: backingFileSystem(config.dataRoot),
    searchRegistries: registries.search,
    insecureRegistries: registries.insecure,
    blockedRegistries: registries.block,
    dataRoot: config.dataRoot,
    runRoot: config.runRoot,
    runtime: config.runtime,
    builds,
    threads: readdirSync('/proc/self/task').length,
    experimental: config.experimental,
    memory: {
      system: memory.rss,
      heapSystem: memory.heapTotal,
      heapAllocated: memory.heapUsed,
      heapInUse: heap.used_heap_size + memory.external,
      heapIdle: heap.total_heap_size - heap.used_heap_size,
      heapReleased: heap.heap_size_limit - heap.total_heap_size,
    },
  }
}

export function daemonVersion(build: { version: string; commit: string; builtAt: number }): DaemonVersion {
  return {
    version: build.version,
    runtimeVersion: `node ${process.version}`,
    gitCommit: build.commit,
    builtAt: build.builtAt,
    platform: `linux/${hostArchitecture()}`,
  }
}
