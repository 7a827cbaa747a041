import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const shared = fileURLToPath(new URL('./packages/shared/src/', import.meta.url))
const alias = [{ find: /^@isula-build\/shared\/(.*)\.js$/, replacement: `${shared}$1.ts` }]

/** What reads bytes of strangers. */
const fuzzed = [
  'packages/shared/src/dockerfile/fuzz.test.ts',
  'packages/shared/src/rpc/proto.test.ts',
  'packages/builder-daemon/src/layer/tar/reader.test.ts',
]

/** What has no effects: it waits for nothing, and leaves nothing behind that the next file could find. */
const pure = [
  'packages/shared/src/**/*.test.ts',
  'packages/builder-daemon/src/core/**/*.test.ts',
  'packages/builder-daemon/src/export/archive-documents.test.ts',
  'packages/builder-daemon/src/registry/http/parsing.test.ts',
  'packages/builder-daemon/src/runtime/launcher-protocol.test.ts',
  // In virtual time.
  'test/faults/solver-stress.test.ts',
]

export default defineConfig({
  test: {
    // Most tests wait for processes of their own; more than this many at once would only slow each other down.
    maxWorkers: 2,
    projects: [
      {
        resolve: { alias },
        test: {
          name: 'unit',
          include: ['packages/**/*.test.ts', 'test/*.test.ts', 'test/suites/**/*.test.ts'],
          exclude: ['**/node_modules/**', ...fuzzed, ...pure],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        // May run beside the others at the lowest priority, where a second of work can take minutes.
        resolve: { alias },
        test: {
          name: 'pure',
          include: pure,
          exclude: ['**/node_modules/**', ...fuzzed],
          isolate: false,
          testTimeout: 600_000,
        },
      },
      {
        // This much processor time each. It may run beside the others: at once, and at the lowest priority.
        resolve: { alias },
        test: {
          name: 'fuzz',
          include: fuzzed,
          env: { ISULA_FUZZ_SECONDS: process.env['ISULA_FUZZ_SECONDS'] ?? '40' },
          maxWorkers: 3,
          sequence: { groupOrder: 1 },
        },
      },
      {
        resolve: { alias },
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts', 'test/faults/**/*.test.ts'],
          exclude: ['**/node_modules/**', ...pure],
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
})
