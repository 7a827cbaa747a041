import { createHash } from 'node:crypto'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import { type JobControl, uncontrolled } from '../job-control.js'
import { contentDigestOf, emptyDigest, pieceBytes, wholeLimit } from './content-digest.js'
import { LOST } from './head.js'
import { helpWithSlots } from './help.js'
import { createPipeline, type Pipeline } from './pipeline.js'
import { OPERATIONS, type Perform, type Slots, slotBytes } from './slots.js'
import type { TarSumState } from './tar-sum.js'

const sizes = [
  0,
  1,
  511,
  wholeLimit,
  wholeLimit + 1,
  pieceBytes,
  pieceBytes + 1,
  0,
  5 * pieceBytes + 3,
  700,
  700,
]

function contentOf(index: number, size: number): Buffer {
  return Buffer.alloc(size, `${index}:content`)
}

interface Made {
  readonly tar: Buffer[]
  readonly digests: (Buffer | undefined)[]
  /** Numbers of the operations that were carried out. */
  readonly done: number[]
}

/** Puts `files` through, an operation with the number of the file before each, read in odd portions. */
function fill(
  pipeline: Pipeline,
  made: Made,
  files: readonly number[],
  before: (index: number) => void = () => undefined,
): string {
  const { collector } = pipeline
  for (const [index, size] of files.entries()) {
    before(index)
    const { words, at } = pipeline.operation(4)
    words[at / 4] = index
    const content = contentOf(index, size)
    const head = Buffer.from(`${index}`.padEnd(512))
    made.tar.push(head, content)
    collector.append(head)
    pipeline.log('none', (digest) => made.digests.push(digest))
    pipeline.log(size, (digest) => made.digests.push(digest === undefined ? digest : Buffer.from(digest)))
    let from = 0
    const complete = pipeline.content(
      size,
      (target, offset, length) => {
        const count = content.copy(target, offset, from, from + Math.min(length, 300_007))
        from += count
        return count
      },
      () => undefined,
    )
    expect(complete).toBe(true)
  }
  return collector.finish().diffId
}

function performer(made: Made, before: () => void = () => undefined): Perform {
  return ({ words }, { head, operations }) => {
    before()
    const count = (words[head + OPERATIONS] ?? 0) / 4
    for (let index = 0; index < count; index += 1) made.done.push(operations[index] ?? -1)
  }
}

function nothing(): Made {
  return { tar: [], digests: [], done: [] }
}

/** A control whose job is helped, in this very thread, until the helper has looked for work so many times. */
function helpedBy(perform: Perform, rounds: number, more: Partial<JobControl> = {}): JobControl {
  return {
    check: () => undefined,
    help(memory) {
      let left = rounds
      const check = (): void => {
        left -= 1
        if (left < 0) throw new BuilderError('ISB_CANCELLED', 'cancelled')
      }
      expect(() => helpWithSlots(memory, perform, { check })).toThrow('cancelled')
    },
    ...more,
  }
}

function expectRight(made: Made, diffId: string, files: readonly number[]): void {
  const whole = Buffer.concat(made.tar)
  expect(diffId).toBe(`sha256:${createHash('sha256').update(whole).digest('hex')}`)
  expect(made.digests).toEqual(
    files.flatMap((size, index) => [undefined, contentDigestOf(contentOf(index, size))]),
  )
  expect(made.done).toEqual(files.map((_, index) => index))
}

describe('A pipeline', () => {
  test('hashes, digests and carries out everything in order without any help', () => {
    const made = nothing()
    using pipeline = createPipeline(performer(made), uncontrolled)
    expectRight(made, fill(pipeline, made, sizes), sizes)
    expect(made.digests[1]).toEqual(emptyDigest)
  })

  test('does the same when others do a part of it', () => {
    for (const rounds of [1, 2, 5]) {
      const made = nothing()
      const files = [...sizes, ...sizes, ...Array.from({ length: 2000 }, (_, index) => index)]
      let helped = 0
      const control = helpedBy(
        performer(made, () => {
          helped += 1
        }),
        rounds,
      )
      using pipeline = createPipeline(performer(made), control)
      expectRight(made, fill(pipeline, made, files), files)
      expect(helped).toBeGreaterThan(0)
    }
  })

  test('tells what the sum was on the way, and goes on from there', () => {
    // As in a tar: everything begins at a block.
    const files = [...sizes, ...Array.from({ length: 700 }, (_, index) => index)].map((size) => size & ~511)
    const whole = nothing()
    const states: TarSumState[] = []
    const perform = performer(whole)
    using pipeline = createPipeline(perform, helpedBy(perform, 3))
    const diffId = fill(pipeline, whole, files, (index) => {
      if (index % 100 !== 50) return
      const before = whole.digests.length
      pipeline.mark((state) => {
        expect(whole.digests.length).toBeGreaterThanOrEqual(before)
        expect(whole.digests).toHaveLength(2 * index)
        if (state !== undefined) states.push(state)
      })
    })
    expectRight(whole, diffId, files)
    expect(states).toHaveLength(7)
    for (const state of states) {
      const rest = Buffer.concat(whole.tar).subarray(state.length)
      using other = createPipeline(performer(nothing()), uncontrolled)
      other.operation(4)
      other.resume(state)
      other.collector.append(rest)
      expect(other.collector.finish()).toEqual({ diffId, tarSize: state.length + rest.length })
    }
  })

  test('hashes content that operations bring, wherever it stands, as if it had been read', () => {
    const files = [...sizes, ...Array.from({ length: 900 }, (_, index) => 1 + ((index * 7919) % 30_000))]
    const brings = (index: number, size: number) => size > 0 && size <= wholeLimit && index % 5 !== 0
    const bring: Perform = ({ words }, { head, operations, data }) => {
      for (let at = 0; at < (words[head + OPERATIONS] ?? 0) / 4; at += 3) {
        const [index = 0, offset = 0, size = 0] = operations.subarray(at, at + 3)
        contentOf(index, size).copy(data, offset)
      }
    }
    for (const control of [uncontrolled, helpedBy(bring, 1), helpedBy(bring, 9)]) {
      const made = nothing()
      made.done.push(...files.keys())
      using pipeline = createPipeline(bring, control)
      const { collector } = pipeline
      for (const [index, size] of files.entries()) {
        const content = contentOf(index, size)
        const head = Buffer.from(`${index}`.padEnd(512))
        made.tar.push(head, content)
        collector.append(head)
        made.digests.push(undefined)
        pipeline.log(size, (digest) => {
          made.digests[index * 2 + 1] = digest === undefined ? digest : Buffer.from(digest)
        })
        made.digests.push(undefined)
        if (brings(index, size)) {
          pipeline.broughtContent(size, (offset) => {
            const { words, at } = pipeline.operation(12)
            words.set([index, offset, size], at / 4)
          })
          continue
        }
        let from = 0
        const read = (target: Buffer, offset: number, length: number): number => {
          const count = content.copy(target, offset, from, from + length)
          from += count
          return count
        }
        expect(pipeline.content(size, read, () => undefined)).toBe(true)
      }
      expectRight(made, collector.finish().diffId, files)
    }
  })

  test('asks for no help with little', () => {
    const control: JobControl = { check: () => undefined, help: () => expect.unreachable() }
    const made = nothing()
    using pipeline = createPipeline(performer(made), control)
    fill(pipeline, made, [10, 20, 30])
  })

  test('draining leaves nothing to be carried out', () => {
    const made = nothing()
    using pipeline = createPipeline(performer(made), uncontrolled)
    for (const number of [7, 8]) {
      const { words, at } = pipeline.operation(4)
      words[at / 4] = number
      expect(made.done).not.toContain(number)
      pipeline.drain()
      expect(made.done).toContain(number)
    }
  })

  test('fails as its helper does, with the code of the error', () => {
    const full: Perform = () => {
      throw Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' })
    }
    const made = nothing()
    const control: JobControl = {
      check: () => undefined,
      help: (memory) => helpWithSlots(memory, full, uncontrolled),
    }
    using pipeline = createPipeline(performer(made), control)
    expect(() => fill(pipeline, made, [9 * pieceBytes])).toThrow(
      expect.objectContaining({ message: 'ENOSPC: no space left', code: 'ENOSPC' }),
    )
  })

  test('fails when a thread that helped is lost, and the next one begins anew', () => {
    const lost: JobControl = {
      check: () => undefined,
      help: (memory) => void Atomics.add(new Int32Array(memory), LOST, 1),
    }
    const made = nothing()
    {
      using pipeline = createPipeline(performer(made), lost)
      expect(() => fill(pipeline, made, [9 * pieceBytes])).toThrow('died')
    }
    const next = nothing()
    using pipeline = createPipeline(performer(next), uncontrolled)
    expectRight(next, fill(pipeline, next, [3, 2 * slotBytes]), [3, 2 * slotBytes])
  })

  test('stops when its job is cancelled, in the middle of a file too', () => {
    let left = 3
    const control: JobControl = {
      check() {
        left -= 1
        if (left < 0) throw new BuilderError('ISB_CANCELLED', 'cancelled')
      },
    }
    const made = nothing()
    let slots: Slots | undefined
    {
      using pipeline = createPipeline(performer(made), control)
      slots = pipeline.slots
      expect(() => fill(pipeline, made, [30 * pieceBytes])).toThrow('cancelled')
    }
    // Whoever comes to help afterwards finds nothing to do.
    const { memory } = slots
    helpWithSlots(memory, () => expect.unreachable(), uncontrolled)
  })

  test('takes the end of a file that comes too early for what it is', () => {
    using pipeline = createPipeline(() => undefined, uncontrolled)
    pipeline.log(10, () => undefined)
    expect(
      pipeline.content(
        10,
        () => 0,
        () => undefined,
      ),
    ).toBe(false)
  })
})
