import type { Pipeline } from '../pipe/pipeline.js'
import { OPERATIONS, type Slot, type Slots } from '../pipe/slots.js'
import { type Stamp, type UpperState, upperState } from './upper-operations.js'

/** The operations of `UpperState`, put down to be carried out later, by whichever thread has time. */
export type UpperLog = Omit<
  UpperState,
  'putFile' | 'addToFile' | 'bringFile' | 'expectFile' | 'directory' | 'file' | 'closeAll'
> & {
  /** The content lies in the slot that is being filled. */
  putFile(name: string, stamp: Stamp, content: PlaceInSlot): void
  addToFile(content: PlaceInSlot): void
  /** The content goes into the slot that is being filled. */
  bringFile(name: string, stamp: Stamp, content: PlaceInSlot): void
}

export interface PlaceInSlot {
  readonly offset: number
  readonly length: number
}

const ENTER = 1
const LEAVE = 2
const PUT_FILE = 3
const OPEN_FILE = 4
const ADD_TO_FILE = 5
const CLOSE_FILE = 6
const PUT_SYMLINK = 7
const PUT_NODE = 8
const PUT_LINK = 9
const BRING_FILE = 10

// Words of an operation; the name and the target of a link follow.
const CODE = 0
const LENGTH = 1
const MODE = 2
const UID = 3
const GID = 4
const SECONDS = 5
const SECONDS_HIGH = 6
const NANOSECONDS = 7
const FIRST = 8
const SECOND = 9
const THIRD = 10
const NAME = 11
const TARGET = 12
const fixedWords = 13
const high = 0x1_0000_0000

const noStamp: Stamp = { mode: 0, uid: 0, gid: 0, seconds: 0, nanoseconds: 0 }

interface Numbers {
  readonly first: number
  readonly second: number
  readonly third: number
}
const noNumbers: Numbers = { first: 0, second: 0, third: 0 }

function bigNumber(value: number): Numbers {
  return { first: value, second: Math.floor(value / high), third: 0 }
}

export function createUpperLog(pipeline: Pipeline): UpperLog {
  function put(code: number, stamp: Stamp, numbers: Numbers, name = '', target = ''): void {
    const length = fixedWords * 4 + name.length + target.length
    const { words, bytes, at } = pipeline.operation(length)
    const word = at / 4
    words[word + CODE] = code
    words[word + LENGTH] = (length + 3) & ~3
    words[word + MODE] = stamp.mode
    words[word + UID] = stamp.uid
    words[word + GID] = stamp.gid
    words[word + SECONDS] = stamp.seconds
    words[word + SECONDS_HIGH] = Math.floor(stamp.seconds / high)
    words[word + NANOSECONDS] = stamp.nanoseconds
    words[word + FIRST] = numbers.first
    words[word + SECOND] = numbers.second
    words[word + THIRD] = numbers.third
    words[word + NAME] = name.length
    words[word + TARGET] = target.length
    const text = at + fixedWords * 4
    bytes.write(name, text, 'latin1')
    if (target !== '') bytes.write(target, text + name.length, 'latin1')
  }

  return {
    enter: (name, stamp, opaque) => put(ENTER, stamp, { ...noNumbers, first: opaque ? 1 : 0 }, name),
    leave: (stamp) => put(LEAVE, stamp, noNumbers),
    putFile: (name, stamp, { offset, length }) =>
      put(PUT_FILE, stamp, { first: offset, second: length, third: 0 }, name),
    openFile: (name, stamp, size) => put(OPEN_FILE, stamp, bigNumber(size), name),
    addToFile: ({ offset, length }) => put(ADD_TO_FILE, noStamp, { first: offset, second: length, third: 0 }),
    closeFile: (stamp) => put(CLOSE_FILE, stamp, noNumbers),
    putSymlink: (name, target, stamp) => put(PUT_SYMLINK, stamp, noNumbers, name, target),
    putLink: (name, stamp) => put(PUT_LINK, stamp, bigNumber(stamp.size), name),
    bringFile: (name, stamp, { offset, length }) =>
      put(BRING_FILE, stamp, { first: offset, second: length, third: 0 }, name),
    putNode: (name, format, { major, minor }, stamp) =>
      put(PUT_NODE, stamp, { first: format, second: major, third: minor }, name),
  }
}

/** Carries out what was put down in one slot. */
export function performUpper(slots: Slots, slot: Slot): void {
  const state = upperState(slots)
  const end = slots.words[slot.head + OPERATIONS] ?? 0
  /** As far as the operations were looked through for files to come. */
  let expected = 0
  for (let at = 0; at < end; ) {
    const waited = performOne(state, slot, at)
    at += slot.operations[at / 4 + LENGTH] ?? end
    if (waited && at >= expected) expected = expectFiles(state, slot, { at, end })
  }
}

/** Tells which files come next in the directory; gives where another begins, or the operations end. */
function expectFiles(
  state: UpperState,
  slot: Slot,
  { at: from, end }: { readonly at: number; readonly end: number },
): number {
  const { operations } = slot
  for (let at = from; at < end; ) {
    const code = operations[at / 4 + CODE]
    if (code === ENTER || code === LEAVE) return at
    if (code === BRING_FILE) state.expectFile(nameOf(slot, at))
    at += operations[at / 4 + LENGTH] ?? end
  }
  return end
}

function nameOf({ operations, operationBytes }: Slot, at: number): string {
  const text = at + fixedWords * 4
  return operationBytes.toString('latin1', text, text + (operations[at / 4 + NAME] ?? 0))
}

/** True when it had to wait for a file of the earlier layer. */
function performOne(state: UpperState, slot: Slot, at: number): boolean {
  const { operations, operationBytes, data } = slot
  const word = (index: number): number => operations[at / 4 + index] ?? 0
  const bigWord = (): number => word(SECOND) * high + (word(FIRST) >>> 0)
  const nameEnd = at + fixedWords * 4 + word(NAME)
  const name = nameOf(slot, at)
  const stamp: Stamp = {
    mode: word(MODE),
    uid: word(UID) >>> 0,
    gid: word(GID) >>> 0,
    seconds: word(SECONDS_HIGH) * high + (word(SECONDS) >>> 0),
    nanoseconds: word(NANOSECONDS),
  }
  const content = (): Buffer => data.subarray(word(FIRST), word(FIRST) + word(SECOND))
  switch (word(CODE)) {
    case ENTER:
      state.enter(name, stamp, word(FIRST) !== 0)
      break
    case LEAVE:
      state.leave(stamp)
      break
    case PUT_FILE:
      state.putFile(name, stamp, content())
      break
    case OPEN_FILE:
      state.openFile(name, stamp, bigWord())
      break
    case ADD_TO_FILE:
      state.addToFile(content())
      break
    case CLOSE_FILE:
      state.closeFile(stamp)
      break
    case PUT_SYMLINK:
      state.putSymlink(name, operationBytes.toString('latin1', nameEnd, nameEnd + word(TARGET)), stamp)
      break
    case PUT_LINK:
      state.putLink(name, { size: bigWord(), ...stamp })
      break
    case BRING_FILE:
      return state.bringFile(name, stamp, content())
    case PUT_NODE:
      state.putNode(name, word(FIRST), { major: word(SECOND), minor: word(THIRD) }, stamp)
      break
    default:
      throw new Error(`no operation ${word(CODE)}`)
  }
  return false
}
