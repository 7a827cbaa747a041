import { chmodSync, closeSync, mkdirSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText, rootedPath } from '@isula-build/shared/oci/byte-path.js'
import { lstatIfExists } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import { detachLater, MS_MOVE, MS_NODEV, mount } from '../system/processes.js'
import { resolveInRoot } from '../system/rooted.js'
import { O_DIRECTORY, O_PATH, openat } from '../system/syscalls.js'
import { SystemError } from '../system/system-error.js'
import type { LaunchRequest } from './launcher-protocol.js'
import {
  findMountPoint,
  findSystemFile,
  kernelMountPoints,
  type MountPoint,
  makeStubLayer,
  openMountPoint,
  removeMadePoints,
} from './mount-points.js'
import { networkFiles } from './network-files.js'
import { checkLayerCount, clearWork, mountOverlay } from './overlay-mount.js'
import { copyRootAttributes } from './root-attributes.js'
import { createMountStage, detach, type MountStage, type StagedMount } from './staged-mounts.js'
import { forecastStubs } from './stub-forecast.js'

/** A complete root file system: layers, RUN mounts, /etc/hosts and /etc/resolv.conf. */
export interface Rootfs {
  readonly path: string
  /** Leaves it to the container, which has mounts of its own by now: nothing has to be unmounted when that ends. */
  handOver(): void
  /** Unmounts all of it and removes every trace but what the RUN itself wrote into the upper. */
  release(): Promise<void>
}

export interface RootfsOptions {
  readonly dataRoot: string
  /** Exists and is empty; gets `rootfs`, `stage`, `hosts` and `resolv.conf`. */
  readonly directory: string
  /** Device nodes of the image cannot be opened: for containers without a device cgroup. */
  readonly withoutDevices: boolean
}

const systemFiles = ['hosts', 'resolv.conf'] as const

/** Fails with ISB_ARGUMENT_INVALID, ISB_LIMIT_EXCEEDED or ISB_STEP_FAILED; nothing is left then. */
export async function assembleRootfs(request: LaunchRequest, options: RootfsOptions): Promise<Rootfs> {
  checkLayerCount(request.lowers.length)
  const root = new RootMount(request, options)
  try {
    root.assemble()
  } catch (error) {
    await root.release()
    throw error
  }
  return root
}

interface Placed {
  readonly staged: StagedMount
  /** Undefined below another mount of the RUN: found when that one is in place. */
  readonly point: MountPoint | undefined
}

class RootMount implements Rootfs {
  readonly path: string
  /** Bottom first, above the layers. */
  private readonly stubs: string[] = []
  private readonly stage: MountStage
  private made: readonly string[] = []
  private rootFd: number | undefined
  /** Under way or done: the root has left this mount namespace. */
  private handedOver: Promise<unknown> | undefined

  constructor(
    private readonly request: LaunchRequest,
    private readonly options: RootfsOptions,
  ) {
    this.path = join(options.directory, 'rootfs')
    mkdirSync(this.path, { mode: 0o700 })
    this.stage = createMountStage(join(options.directory, 'stage'), options.dataRoot)
  }

  assemble(): void {
    const { request } = this
    const staged = [
      ...request.mounts.map((wanted) => this.stage.add(wanted)),
      ...this.stageNetworkFiles(),
    ].sort(byTarget)
    copyRootAttributes(request.lowers, request.upper, this.options.dataRoot)
    this.addForecastStubs()
    let root = this.mountRoot()
    const placed = place(root, staged)
    const missing = [...kernelMountPoints(root), ...placed.flatMap(({ point }) => point ?? [])].filter(
      (point) => point.missing,
    )
    if (missing.length > 0) {
      this.addStubs(root, missing)
      this.unmountRoot()
      root = this.mountRoot()
    }
    checkKernelDirectories(root)
    for (const one of placed) this.attach(root, one)
    checkWorkingDirectory(root, request.cwd)
  }

  private addForecastStubs(): void {
    const { mounts, lowers, upper } = this.request
    if (mounts.length > 0 || readdirSync(upper).length > 0) return
    const forecast = forecastStubs(lowers, this.options.dataRoot, systemFiles)
    if (forecast === undefined || forecast.missing.length === 0) return
    const seen = openat(AT_FDCWD, forecast.seenIn ?? bytesOfText(upper), O_PATH | O_DIRECTORY)
    try {
      this.addStubs(seen, forecast.missing)
    } finally {
      closeSync(seen)
    }
  }

  private addStubs(root: number, missing: readonly MountPoint[]): void {
    // On the layers' own file system, which can store every attribute a directory of the image has.
    const directory = join(dirname(this.request.work), `stubs-${this.stubs.length}`)
    this.stubs.push(directory)
    mkdirSync(directory, { mode: 0o755 })
    makeStubLayer(directory, root, missing)
  }

  private stageNetworkFiles(): readonly StagedMount[] {
    const { network, hostname } = this.request
    const files = networkFiles(network, hostname)
    return systemFiles.map((name) => {
      const target = `/etc/${name}`
      const content = name === 'hosts' ? files.hosts : files.resolvConf
      const path = join(this.options.directory, name)
      writeFileSync(path, content, { encoding: 'latin1' })
      // The launcher's umask is stricter than what every user of the container has to read.
      chmodSync(path, 0o644)
      return this.stage.addSystemFile(path, target)
    })
  }

  private mountRoot(): number {
    const { lowers, upper, work } = this.request
    const all = [...lowers, ...this.stubs]
    const layers = all.length === 0 ? [this.stage.empty] : all
    const flags = this.options.withoutDevices ? MS_NODEV : 0
    mountOverlay(this.path, { lowers: layers, writable: { upper, work } }, this.options.dataRoot, flags)
    this.rootFd = openat(AT_FDCWD, bytesOfText(this.path), O_PATH | O_DIRECTORY)
    return this.rootFd
  }

  private closeRoot(): void {
    if (this.rootFd !== undefined) closeSync(this.rootFd)
    this.rootFd = undefined
  }

  private unmountRoot(): void {
    this.closeRoot()
    detach(this.path)
    clearWork(this.request.work)
  }

  handOver(): void {
    this.closeRoot()
    this.handedOver ??= detachLater(this.path).catch(() => false)
  }

  private attach(root: number, { staged, point }: Placed): void {
    const opened = openMountPoint(root, this.path, staged.target, staged.kind)
    try {
      // Below another mount of the RUN what was made lies in that mount, not in the upper.
      if (point !== undefined) this.made = [...this.made, ...opened.made]
      mount(bytesOfText(staged.place), `/proc/self/fd/${opened.fd}`, '', MS_MOVE)
    } finally {
      closeSync(opened.fd)
    }
  }

  async release(): Promise<void> {
    const { directory } = this.options
    this.handOver()
    await this.handedOver
    everyStep([
      // What has not gone by now tells why.
      () => this.unmountRoot(),
      () => this.stage.release(),
      () => removeMadePoints(this.request.upper, this.made),
      ...this.stubs.map((stubs) => () => rmSync(stubs, { recursive: true, force: true })),
      () => rmSync(join(directory, 'hosts'), { force: true }),
      () => rmSync(join(directory, 'resolv.conf'), { force: true }),
      () => rmdirSync(this.path),
    ])
  }
}

/** A failed step must not keep the others from being done; the first failure is the one that counts. */
function everyStep(steps: readonly (() => void)[]): void {
  const failures: unknown[] = []
  for (const step of steps) {
    try {
      step()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
}

/** Parents before what lies below them. */
function byTarget(a: StagedMount, b: StagedMount): number {
  const left = rootedPath(bytesOfText(a.target)).split('/')
  const right = rootedPath(bytesOfText(b.target)).split('/')
  for (const [index, part] of left.entries()) {
    const other = right[index]
    if (other === undefined) return 1
    if (part !== other) return part < other ? -1 : 1
  }
  return left.length - right.length
}

function place(root: number, staged: readonly StagedMount[]): readonly Placed[] {
  const covered: string[] = []
  const placed: Placed[] = []
  for (const one of staged) {
    const written = rootedPath(bytesOfText(one.target))
    const isCovered = (path: string): boolean =>
      covered.some((parent) => path !== parent && path.startsWith(`${parent}/`))
    if (isCovered(written)) {
      if (!one.system) placed.push({ staged: one, point: undefined })
      continue
    }
    const point = one.system ? findSystemFile(root, one.target) : findMountPoint(root, one.target, one.kind)
    if (point === undefined) continue
    if (isCovered(point.path)) {
      if (!one.system) placed.push({ staged: one, point: undefined })
      continue
    }
    covered.push(written, point.path)
    placed.push({ staged: one, point })
  }
  return placed
}

// An upper that is used again lies over the stubs, and what it has there is not hidden by them.
function checkKernelDirectories(root: number): void {
  for (const { path } of kernelMountPoints(root)) {
    if (lstatIfExists(root, path)?.type === 'directory') continue
    throw new BuilderError('ISB_STEP_FAILED', `/${path} is not a directory in the file system of this step`, {
      hint: `Do not replace /${path}; a container needs it.`,
    })
  }
}

/** Inside /proc a directory may be one of the host's (CVE-2024-21626). */
function checkWorkingDirectory(root: number, cwd: string): void {
  try {
    const { path, stat } = resolveInRoot(root, bytesOfText(cwd), { followLast: true })
    if (path.startsWith('proc/')) {
      throw new BuilderError('ISB_ARGUMENT_INVALID', `the working directory ${cwd} is inside /proc`, {
        hint: 'Set WORKDIR to a directory of the image.',
      })
    }
    if (stat === undefined || stat.type === 'directory') return
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
  }
  throw new BuilderError('ISB_STEP_FAILED', `the working directory ${cwd} is not a directory`, {
    hint: 'Set WORKDIR to a directory of the image.',
    exitCode: 127,
  })
}
