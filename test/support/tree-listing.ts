import { runTool } from './judges.js'

/**
 * Everything that a layer can say about what a tree holds, one line per entry, sorted; bytes of names as
 * latin1. `skipped` are paths relative to the root, with all they hold.
 */
export function treeListing(root: string, skipped: readonly string[] = []): readonly string[] {
  const prune = skipped.flatMap((path) => ['-path', `./${path}`, '-prune', '-o'])
  // No size, links and time for directories: these are the file system's own.
  const format = ['(', '-type', 'd', '-printf', '%p d %m %U:%G\\0', ')', '-o']
  const files = ['-type', 'f', '-printf', '%p f %m %U:%G %n %s %Ts\\0', '-o']
  const script = `cd "$0" && find . -mindepth 1 "$@" | LC_ALL=C sort -z | base64 -w0`
  const rest = ['-printf', '%p %y %m %U:%G %n <%l> %Ts\\0']
  const entries = decode(runTool('sh', ['-c', script, root, ...prune, ...format, ...files, ...rest]))
  const attributes = decode(
    runTool('sh', [
      '-c',
      `cd "$0" && getfattr -R -P -h -d -m '^(user|security.capability)' -e hex . | base64 -w0`,
      root,
    ]),
  )
  const digests = decode(
    runTool('sh', [
      '-c',
      `cd "$0" && find . "$@" -type f -size -1000k -exec sha256sum -z {} + | LC_ALL=C sort -z | base64 -w0`,
      root,
      ...prune,
    ]),
  )
  return [...entries.split('\0'), ...attributes.split('\n\n').sort(), ...digests.split('\0')].filter(
    (line) => line !== '',
  )
}

function decode(base64: string): string {
  return Buffer.from(base64, 'base64').toString('latin1')
}
