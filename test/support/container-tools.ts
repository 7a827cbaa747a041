import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { runTool, type Tool } from './judges.js'

/** Tools of one family, with stores and configuration of their own. */
export interface ContainerTools extends Disposable {
  readonly podman: Tool
  readonly buildah: Tool
  readonly skopeo: Tool
  /** They no longer know what which registry has, so that the next push is one of its own. */
  forgetBlobs(): void
}

/** In a mount namespace of its own; what is written below these goes elsewhere. */
const enter = `for place in etc var run; do
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$0/upper/$place,workdir=$0/scratch/$place" "/$place"
done
exec "$@"`

/**
 * podman, buildah and skopeo that share nothing with the machine's: whatever they write to /etc, /var or /run, caches of
 * blobs included, is lost with `directory`. They take every image, from registries without TLS only on request.
 */
export function createContainerTools(directory: string): ContainerTools {
  for (const place of ['etc', 'var', 'run']) {
    for (const kind of ['upper', 'scratch']) mkdirSync(join(directory, kind, place), { recursive: true })
  }
  const config = join(directory, 'upper/etc/containers')
  mkdirSync(config)
  writeFileSync(join(config, 'policy.json'), '{ "default": [{ "type": "insecureAcceptAnything" }] }')
  writeFileSync(join(config, 'registries.conf'), '')
  writeFileSync(
    join(config, 'containers.conf'),
    // The defaults ask for more than root may have in a sandbox.
    `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
`,
  )
  const cgroup = `isula-tools-${process.pid}`
  const run: Tool = (program = '', ...args) => {
    const inside = ['sh', '-ec', enter, directory, program, ...args]
    return runTool('unshare', ['--mount', '--propagation=private', ...inside])
  }
  const store = ['--root', join(directory, 'store'), '--runroot', join(directory, 'store-run')]
  const parent = ['--cgroup-parent', `/${cgroup}`, '--network=none']
  return {
    podman: (command = '', ...args) => {
      const more = command === 'run' ? parent : []
      return run('podman', ...store, '--storage-driver=overlay', command, ...more, ...args)
    },
    buildah: (...args) => run('buildah', ...store, '--storage-driver=overlay', ...args),
    skopeo: (...args) => run('skopeo', ...args),
    forgetBlobs() {
      const cache = join(directory, 'upper/var/lib/containers/cache')
      rmSync(cache, { recursive: true, force: true })
    },
    [Symbol.dispose]() {
      for (const controller of ['', ...readdirSync('/sys/fs/cgroup')]) {
        removeTree(join('/sys/fs/cgroup', controller, cgroup))
      }
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** Of control groups, whose files are no files. */
function removeTree(path: string): void {
  if (!existsSync(path)) return
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) removeTree(join(path, entry.name))
  }
  rmdirSync(path)
}
