declare const BUILD_VERSION: string | undefined
declare const BUILD_COMMIT: string | undefined
declare const BUILD_TIME: string | undefined

/** What a program is, set when it is bundled; from sources it says so. `builtAt` is in milliseconds since the epoch. */
export const buildInfo = {
  version: typeof BUILD_VERSION === 'string' ? BUILD_VERSION : '0.0.0-source',
  commit: typeof BUILD_COMMIT === 'string' ? BUILD_COMMIT : 'unknown',
  builtAt: typeof BUILD_TIME === 'string' ? Date.parse(BUILD_TIME) : 0,
} as const
