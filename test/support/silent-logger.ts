import type { Logger } from '../../packages/builder-daemon/src/ports/logger.js'

/** For tests that look at results; `ISULA_TEST_LOG=1` shows what is logged. */
const write =
  process.env['ISULA_TEST_LOG'] === '1'
    ? (event: string, fields?: Record<string, unknown>): void => console.error(event, fields)
    : (): void => undefined

export const silentLogger: Logger = { debug: write, info: write, warn: write, error: write }
