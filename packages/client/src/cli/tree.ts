import type { Command } from './command.js'
import { bool, string, strings } from './flags.js'
import { authfileFlag, credsFlag, retryDelayFlag, retryFlag, tlsVerifyFlag } from './registry-flags.js'
import { login, logout, manifest, pull, push } from './registry-tree.js'

const build: Command = {
  name: 'build',
  summary: 'Build container images',
  usage: '[FLAGS] PATH',
  examples: [
    'isula-build ctr-img build -f Dockerfile .',
    'isula-build ctr-img build -f Dockerfile -o docker-archive:name.tar:image:tag .',
    'isula-build ctr-img build -t app:1.0 --build-arg VERSION=2 --target web .',
    'tar -C dir -c . | isula-build ctr-img build -t app:1.0 -',
  ],
  flags: [
    authfileFlag,
    strings('build-arg', 'Arguments used during build time'),
    strings('build-context', 'Additional contexts, NAME=DIRECTORY or NAME=docker-image://IMAGE'),
    strings('build-static', "Static build with the given option: build-time='YYYY-MM-DD HH:MM:SS'"),
    strings(
      'cache-from',
      'Caches to read: type=registry,ref=REFERENCE, type=local,src=DIRECTORY or REFERENCE',
    ),
    strings(
      'cache-to',
      'Caches to write: the same with dest=DIRECTORY; ,mode=max for the results of all steps',
    ),
    strings('cap-add', 'Add Linux capabilities for RUN command'),
    {
      ...credsFlag,
      help: 'Login for registries named by -t, -o or --build-context (not by the Dockerfile); asks for a missing password',
    },
    strings('env', 'Variables of the resulting image, KEY=VALUE'),
    {
      ...string(
        'explain',
        'Say of every step whether it came from the cache, and why not: text (also --explain alone) or json',
      ),
      placeholder: 'format',
      bare: 'text',
    },
    string('filename', 'Path for Dockerfile, - for standard input', 'f'),
    {
      ...string(
        'format',
        'Image format of the built image: docker or oci; with --explain also json, which is about the explanation',
      ),
      default: 'docker',
    },
    string('iidfile', 'Let image ID write to the file'),
    { ...string('isolation', 'How RUN is isolated: oci or chroot'), default: 'oci' },
    strings('label', 'Labels of the resulting image, KEY=VALUE'),
    { ...string('layers', 'One layer per instruction or per stage'), default: 'instruction' },
    { ...string('network', 'Network of RUN: host or none'), default: 'host' },
    bool('no-cache', 'Do not use the build cache'),
    strings('no-cache-filter', 'Do not use the build cache for these stages: names or indexes'),
    strings(
      'output',
      'Destination of output images: docker-archive:PATH[:IMAGE[:TAG]], oci-archive:…, oci-dir:…, docker-daemon:IMAGE:TAG, isulad:IMAGE:TAG, docker://… or oci://…, type=TYPE,…, or a directory for the files',
      'o',
    ),
    strings('platform', 'Platforms to build for, os/arch[/variant],…'),
    { ...bool('proxy', 'Inherit proxy environment variables from host'), default: true },
    {
      ...string(
        'pull',
        'Base images asked for at registries: missing, newer, always (also --pull alone) or never',
      ),
      placeholder: 'policy',
      bare: 'always',
      default: 'missing',
    },
    bool('quiet', 'Print the image ID only', 'q'),
    retryFlag,
    retryDelayFlag,
    strings('secret', 'Secrets for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME'),
    strings('ssh', 'SSH agents for RUN --mount=type=ssh'),
    strings('tag', 'Add tags to the built image', 't'),
    string('target', 'Stage to build'),
    tlsVerifyFlag,
  ],
  run: async () => (await import('../commands/build.js')).runBuild,
}

const images: Command = {
  name: 'images',
  summary: 'List locally stored images',
  usage: '[REPOSITORY[:TAG]]',
  examples: ['isula-build ctr-img images', 'isula-build ctr-img images busybox:latest'],
  flags: [bool('quiet', 'Print image IDs only', 'q')],
  run: async () => (await import('../commands/images.js')).runImages,
}

const importCommand: Command = {
  name: 'import',
  summary: 'Import the base image from a tarball to the image store',
  usage: 'FILE [REPOSITORY[:TAG]]',
  examples: ['isula-build ctr-img import busybox.tar mybusybox:latest'],
  run: async () => (await import('../commands/import.js')).runImport,
}

const load: Command = {
  name: 'load',
  summary: 'Load images',
  usage: '[FLAGS]',
  examples: [
    'isula-build ctr-img load -i busybox.tar',
    'isula-build ctr-img load -i app:latest -d /home/Images',
  ],
  flags: [
    string('base', 'Base image tarball path of separated images', 'b'),
    string('dir', 'Directory of separated image tarballs', 'd'),
    string('input', 'Path of the tarball, - for standard input, or the app image of separated images', 'i'),
    string('lib', 'Library image tarball path of separated images', 'l'),
    bool('no-check', 'Skip the checksums of separated images'),
  ],
  run: async () => (await import('../commands/load.js')).runLoad,
}

const prune: Command = {
  name: 'prune',
  summary: 'Remove build cache that no image uses',
  usage: '[FLAGS]',
  examples: [
    'isula-build ctr-img prune --dry-run',
    'isula-build ctr-img prune --all --force',
    'isula-build ctr-img prune --filter until=24h --keep-storage 10GB',
  ],
  args: 'none',
  flags: [
    bool('all', 'Also cache mounts, and for root unused downloads', 'a'),
    bool('dry-run', 'Only show what would be removed'),
    {
      ...strings('filter', 'Only what was not used for so long, exact to an hour: until=24h'),
      placeholder: 'filter',
    },
    bool('force', 'Do not ask', 'f'),
    {
      ...string('keep-storage', 'Stop when no more than this is left; what was used last stays'),
      placeholder: 'size',
    },
  ],
  run: async () => (await import('../commands/prune.js')).runPrune,
}

const rm: Command = {
  name: 'rm',
  summary: 'Remove one or more locally stored images',
  usage: 'IMAGE [IMAGE...] [FLAGS]',
  examples: [
    'isula-build ctr-img rm busybox:latest',
    'isula-build ctr-img rm --prune',
    'isula-build ctr-img rm --all',
  ],
  flags: [bool('all', 'Remove all images', 'a'), bool('prune', 'Remove all untagged images', 'p')],
  run: async () => (await import('../commands/rm.js')).runRemove,
}

const save: Command = {
  name: 'save',
  summary: 'Save images to a tarball',
  usage: 'IMAGE [IMAGE...] [FLAGS]',
  examples: [
    'isula-build ctr-img save busybox:latest -o busybox.tar',
    'isula-build ctr-img save app1:latest app2:latest -b base:latest -l lib:latest -d Images',
  ],
  flags: [
    string('base', 'Base image name of separated images', 'b'),
    string('dest', 'Destination directory of separated images (default "./Images")', 'd'),
    { ...string('format', 'Format of the archive: docker or oci', 'f'), default: 'docker' },
    string('lib', 'Lib image name of separated images', 'l'),
    string('output', 'Path of the archive, - for standard output', 'o'),
    string('rename', 'JSON file with other file names for separated images', 'r'),
  ],
  run: async () => (await import('../commands/save.js')).runSave,
}

const tag: Command = {
  name: 'tag',
  summary: 'Create a tag for source image',
  usage: 'SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]',
  examples: ['isula-build ctr-img tag busybox:latest mybusybox:latest'],
  run: async () => (await import('../commands/tag.js')).runTag,
}

const ctrImg: Command = {
  name: 'ctr-img',
  summary: 'Container image operations',
  commands: [build, images, importCommand, load, prune, pull, push, rm, save, tag],
}

/** Every command, once; parsing, help and completion derive from it. */
export const program: Command = {
  name: 'isula-build',
  summary: 'isula-build is a tool for building container images',
  flags: [bool('version', 'Version for isula-build', 'v')],
  commands: [
    { name: 'completion', summary: 'Print a completion script', usage: '[bash|zsh]', hidden: true },
    ctrImg,
    { name: 'help', summary: 'Help about any command', args: 'any' },
    {
      name: 'info',
      summary: 'Show isula-build system information',
      usage: '[FLAGS]',
      examples: ['isula-build info -H'],
      args: 'none',
      flags: [
        bool('human-readable', 'Print memory info in human readable format', 'H'),
        bool('verbose', 'Print runtime memory info', 'V'),
      ],
      run: async () => (await import('../commands/info.js')).runInfo,
    },
    login,
    logout,
    manifest,
    {
      name: 'version',
      summary: 'Show the isula-build version information',
      usage: '',
      examples: ['isula-build version'],
      args: 'none',
      run: async () => (await import('../commands/version.js')).runVersion,
    },
  ],
}
