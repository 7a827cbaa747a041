import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { AuditLog } from '../ports/audit.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import { hasErrno } from '../system/system-error.js'
import { type AuditFile, openAuditFile } from './audit-file.js'
import { auditLine, lossLine } from './audit-line.js'

export interface AuditLogOptions {
  readonly path: string
  readonly clock: Clock
  readonly log: Logger
  /** Milliseconds from a failed attempt to the next one. */
  readonly retryMs?: number
  /** A failure that lasts is told this often, milliseconds. */
  readonly reportMs?: number
  /** Bytes of lines that wait; those beyond are counted and dropped. */
  readonly backlog?: number
}

/** Bytes of one write. */
const batchBytes = 256 << 10
/** How long the last lines may take when the daemon stops, milliseconds. */
const farewellMs = 5_000

/**
 * The audit log: JSON lines, appended off the main thread. A file that takes nothing (a full disk) costs
 * lines beyond the backlog, never a call: the daemon's own log tells of it, and so does a line with their
 * number once there is room. Fails with ISB_CONFIG_INVALID when there cannot be such a file at the path.
 */
export async function openAuditLog(options: AuditLogOptions): Promise<AuditLog & AsyncDisposable> {
  const { path, clock, log, retryMs = 1_000, reportMs = 60_000, backlog = 4 << 20 } = options
  const waiting: string[] = []
  let waitingBytes = 0
  /** Lines on their way into the file. */
  let taken = 0
  let lost = 0
  let file: AuditFile | undefined
  const reportedAt = new Map<string, number>()
  let draining: Promise<void> | undefined
  let wakeUp: (() => void) | undefined
  let closing = false

  function report(event: string, fields: Record<string, unknown>): void {
    const now = performance.now()
    if (now - (reportedAt.get(event) ?? Number.NEGATIVE_INFINITY) < reportMs) return
    reportedAt.set(event, now)
    log.error(event, { path, ...fields })
  }

  function take(): Buffer {
    let text = ''
    while (text.length < batchBytes) {
      const line = waiting.shift()
      if (line === undefined) break
      text += line
      waitingBytes -= line.length
      taken++
    }
    if (waiting.length === 0 && lost > 0) {
      text += lossLine(lost, clock.now())
      lost = 0
    }
    return Buffer.from(text, 'latin1')
  }

  async function append(lines: Buffer): Promise<void> {
    for (;;) {
      try {
        file ??= await openAuditFile(path)
        await file.append(lines)
        if (reportedAt.delete('audit.failed')) log.info('audit.resumed', { path })
        taken = 0
        return
      } catch (error) {
        report('audit.failed', { error, waiting: waiting.length + taken })
        if (closing) throw error
        await new Promise<void>((resolve) => {
          wakeUp = resolve
          setTimeout(resolve, retryMs).unref()
        })
      }
    }
  }

  async function drain(): Promise<void> {
    while (waiting.length > 0 || lost > 0) await append(take())
  }

  function start(): void {
    draining ??= drain().then(
      () => {
        draining = undefined
      },
      // Only when closing, and then it has been told.
      () => undefined,
    )
  }

  try {
    file = await openAuditFile(path)
  } catch (error) {
    if (!hasErrno(error, 'ENOSPC', 'EDQUOT')) throw unusable(path, error)
    report('audit.failed', { error, waiting: 0 })
  }

  return {
    write(entry) {
      const line = auditLine(entry, clock.now())
      if (waitingBytes + line.length > backlog) {
        lost++
        // Also a disk that hangs and gives no error comes to this.
        report('audit.overflow', { lost })
      } else {
        waiting.push(line)
        waitingBytes += line.length
      }
      start()
    },
    async [Symbol.asyncDispose]() {
      closing = true
      wakeUp?.()
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, farewellMs)
      })
      const closed = (draining ?? Promise.resolve()).then(() => file?.close())
      await Promise.race([closed, late])
      clearTimeout(timer)
      const lines = waiting.length + taken + lost
      if (lines > 0) log.error('audit.lost', { path, lines })
    },
  }
}

function unusable(path: string, error: unknown): BuilderError {
  const reason = error instanceof Error ? error.message : String(error)
  return new BuilderError('ISB_CONFIG_INVALID', `the audit log cannot be written: ${reason}`, {
    cause: error,
    hint: `Make ${path} a file of root's in a directory that exists, or set another \`audit_log\`.`,
  })
}
