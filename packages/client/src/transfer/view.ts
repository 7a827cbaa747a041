import { displayLine } from '@isula-build/shared/text/display-line.js'
import { formatSize } from '@isula-build/shared/text/units.js'

/** Shows a transfer: lines as they come, and on a terminal how far it is. */
export interface TransferView {
  line(text: string): void
  progress(digest: string, done: number, total: number): void
  /** Nothing comes any more; what was drawn is gone. */
  end(): void
}

export interface TransferScreen {
  readonly print: (line: string) => void
  /** Draws on the terminal; undefined where there is none. */
  readonly draw: ((text: string) => void) | undefined
  /** Columns. */
  readonly width: () => number
}

export function transferView({ print, draw, width }: TransferScreen): TransferView {
  const blobs = new Map<string, { readonly done: number; readonly total: number }>()
  let drawn = false
  const clear = (): void => {
    if (drawn) draw?.('\r\u001b[K')
    drawn = false
  }
  return {
    line(text) {
      clear()
      print(displayLine(text))
    },
    progress(digest, done, total) {
      blobs.set(digest, { done, total })
      if (draw === undefined) return
      clear()
      draw(statusLine([...blobs.entries()]).slice(0, Math.max(0, width() - 1)))
      drawn = true
    },
    end: clear,
  }
}

/** `-q`. */
export const quietView: TransferView = {
  line: () => undefined,
  progress: () => undefined,
  end: () => undefined,
}

function statusLine(blobs: readonly (readonly [string, { done: number; total: number }])[]): string {
  const sum = (key: 'done' | 'total'): number => blobs.reduce((all, [, blob]) => all + blob[key], 0)
  const moving = blobs
    .filter(([, { done, total }]) => done < total)
    .map(
      ([digest, { done, total }]) =>
        `${displayLine(digest.replace(/^sha256:/, '').slice(0, 12))} ${percent(done, total)}`,
    )
  const whole = `${formatSize(sum('done'), 1000)} / ${formatSize(sum('total'), 1000)}`
  return [whole, ...moving].join('  ')
}

function percent(done: number, total: number): string {
  return `${total === 0 ? 100 : Math.floor((100 * done) / total)}%`
}
