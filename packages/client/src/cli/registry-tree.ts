import type { Command } from './command.js'
import { bool, string, strings } from './flags.js'
import {
  authfileFlag,
  credsFlag,
  digestfileFlag,
  retryDelayFlag,
  retryFlag,
  tlsVerifyFlag,
} from './registry-flags.js'

// The commands that speak to registries.

export const pull: Command = {
  name: 'pull',
  summary: 'Pull image from remote repository',
  usage: 'REPOSITORY[:TAG] [FLAGS]',
  examples: [
    'isula-build ctr-img pull registry.example.com/repository:tag',
    'isula-build ctr-img pull --platform linux/arm64 busybox:1.36',
  ],
  flags: [
    bool('all-platforms', 'Pull every platform of the image'),
    authfileFlag,
    credsFlag,
    strings('platform', 'Platforms to pull, os/arch[/variant],…'),
    {
      ...string('policy', 'When the registry is asked: missing, newer, always or never'),
      default: 'newer',
    },
    bool('quiet', 'Print the image ID only', 'q'),
    retryFlag,
    retryDelayFlag,
    tlsVerifyFlag,
  ],
  run: async () => (await import('../commands/pull.js')).runPull,
}

export const push: Command = {
  name: 'push',
  summary: 'Push image to remote repository',
  usage: 'REPOSITORY[:TAG] [DESTINATION] [FLAGS]',
  examples: [
    'isula-build ctr-img push registry.example.com/repository:tag',
    'isula-build ctr-img push app:1.0 registry.example.com/team/app:1.0',
  ],
  flags: [
    authfileFlag,
    {
      ...string('compression', 'Compression of the layers: gzip or zstd, perhaps with a level'),
      placeholder: 'name[:level]',
    },
    credsFlag,
    digestfileFlag,
    string('format', 'Format of the pushed image: docker or oci (unset: docker, oci for zstd layers)', 'f'),
    bool('quiet', 'Print the digest only', 'q'),
    retryFlag,
    retryDelayFlag,
    tlsVerifyFlag,
  ],
  run: async () => (await import('../commands/push.js')).runPush,
}

export const login: Command = {
  name: 'login',
  summary: 'Login to an image registry',
  usage: 'SERVER [FLAGS]',
  examples: [
    'isula-build login registry.example.com',
    'cat creds.txt | isula-build login -u cooper -p registry.example.com',
  ],
  flags: [
    bool('password-stdin', 'Read password from stdin', 'p'),
    retryFlag,
    retryDelayFlag,
    tlsVerifyFlag,
    string('username', 'Username to access registry', 'u'),
  ],
  run: async () => (await import('../commands/login.js')).runLogin,
}

export const logout: Command = {
  name: 'logout',
  summary: 'Logout from an image registry',
  usage: '[SERVER] [FLAGS]',
  examples: ['isula-build logout registry.example.com', 'isula-build logout -a'],
  flags: [bool('all', 'Logout all registries', 'a')],
  run: async () => (await import('../commands/logout.js')).runLogout,
}

export const manifest: Command = {
  name: 'manifest',
  summary: 'Manipulate manifest lists',
  commands: [
    {
      name: 'annotate',
      summary: 'Annotate a local manifest list',
      usage: 'MANIFEST_LIST IMAGE [FLAGS]',
      examples: [
        'isula-build manifest annotate --os linux --arch arm64 openeuler:latest localhost:5000/openeuler_aarch64:latest',
      ],
      flags: [
        strings('annotation', 'Annotations of the entry, KEY=VALUE'),
        string('arch', 'Set architecture'),
        authfileFlag,
        credsFlag,
        string('os', 'Set operating system'),
        strings('os-features', 'Set operating system feature'),
        string('os-version', 'Set operating system version'),
        retryFlag,
        retryDelayFlag,
        tlsVerifyFlag,
        string('variant', 'Set architecture variant'),
      ],
      run: async () => (await import('../commands/manifest.js')).runAnnotate,
    },
    {
      name: 'create',
      summary: 'Create a local manifest list',
      usage: 'MANIFEST_LIST [IMAGE...] [FLAGS]',
      examples: [
        'isula-build manifest create openeuler',
        'isula-build manifest create app:1.0 localhost:5000/app_x86:latest localhost:5000/app_arm:latest',
      ],
      flags: [
        bool('all', 'Take every platform of an image that is a list itself', 'a'),
        bool('amend', 'Replace a list of this name'),
        authfileFlag,
        credsFlag,
        { ...string('format', 'Format of the list: docker or oci', 'f'), default: 'docker' },
        retryFlag,
        retryDelayFlag,
        tlsVerifyFlag,
      ],
      run: async () => (await import('../commands/manifest.js')).runCreate,
    },
    {
      name: 'inspect',
      summary: 'Inspect a local manifest list',
      usage: 'MANIFEST_LIST',
      examples: ['isula-build manifest inspect openeuler:latest'],
      run: async () => (await import('../commands/manifest.js')).runInspect,
    },
    {
      name: 'push',
      summary: 'Push a local manifest list to a repository',
      usage: 'MANIFEST_LIST DESTINATION [FLAGS]',
      examples: ['isula-build manifest push openeuler:latest localhost:5000/openeuler:latest'],
      flags: [
        { ...bool('all', 'Push the images too, not only the list'), default: true },
        authfileFlag,
        credsFlag,
        digestfileFlag,
        string('format', 'Format of the pushed list: docker or oci (unset: as it was made)', 'f'),
        bool('purge', 'Remove the local list afterwards'),
        bool('quiet', 'Print the digest only', 'q'),
        retryFlag,
        retryDelayFlag,
        tlsVerifyFlag,
      ],
      run: async () => (await import('../commands/manifest.js')).runPush,
    },
    {
      name: 'rm',
      summary: 'Remove local manifest lists, not their images',
      usage: 'MANIFEST_LIST [MANIFEST_LIST...]',
      examples: ['isula-build manifest rm openeuler:latest'],
      run: async () => (await import('../commands/manifest.js')).runRemove,
    },
  ],
}
