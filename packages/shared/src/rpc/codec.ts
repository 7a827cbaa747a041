import {
  countElement,
  createReader,
  DELIMITED,
  DecodeError,
  readEnd,
  readTag,
  skipValue,
  type WireReader,
} from './wire-reader.js'
import type { ScalarType } from './wire-types.js'
import { createWriter, type WireWriter, writeDelimited, writeTag, written } from './wire-writer.js'

/**
 * Protocol Buffers, proto3 (https://protobuf.dev/programming-guides/proto3/), from tables:
 *
 *     const Image = message('pkg.Image', { id: field(1, text), names: repeated(2, text) })
 *     type Image = Decoded<typeof Image>
 *     Image.decode(Image.encode({ id: 'a' }))   // { id: 'a', names: [] }
 *
 * A decoded message has every field: absent scalars are their zero, absent messages and absent
 * `optional` fields undefined. Encoding takes any subset. Known fields of another wire type count as
 * unknown, as do unknown numbers; both are skipped. Of what comes twice the last one wins, but singular
 * messages are merged.
 */
export interface MessageType<Out, In> {
  readonly kind: 'message'
  /** Full name, package included. */
  readonly proto: string
  /** By ascending number. */
  readonly entries: readonly Entry[]
  /** Throws RangeError for a value that its field cannot hold. */
  encode(value: In): Buffer
  /** Throws DecodeError. Byte fields of the result are views of `bytes`. */
  decode(bytes: Uint8Array): Out
}

export type AnyType = ScalarType<unknown> | MessageType<unknown, unknown>

/** What the tables say about one field number. */
export interface Entry {
  readonly number: number
  readonly name: string
  readonly label: 'implicit' | 'optional' | 'repeated' | 'map' | 'oneof'
  readonly type: AnyType
  /** The key type of a map. */
  readonly key?: ScalarType<unknown>
  /** Which alternative of the oneof `name` this is. */
  readonly alternative?: string
}

declare const fieldOut: unique symbol
declare const fieldIn: unique symbol

/** A field, or the alternatives of a oneof. `Out` is what decoding gives, `In` what encoding takes. */
export interface Field<Out, In = Out> {
  readonly entries: readonly Omit<Entry, 'name'>[]
  readonly [fieldOut]?: Out
  readonly [fieldIn]?: In
}

type OutOf<T> = T extends MessageType<infer O, infer _> ? O : T extends ScalarType<infer O> ? O : never
type InOf<T> = T extends MessageType<infer _, infer I> ? I : T extends ScalarType<infer I> ? I : never
type FieldOut<F> = F extends Field<infer O, infer _> ? O : never
type FieldIn<F> = F extends Field<infer _, infer I> ? I : never
type Fields = Readonly<Record<string, Field<unknown, unknown>>>
type MessageOut<F extends Fields> = { readonly [K in keyof F]: FieldOut<F[K]> }
type MessageIn<F extends Fields> = { readonly [K in keyof F]?: FieldIn<F[K]> | undefined }
type Numbered<T> = { readonly number: number; readonly type: T }
type CasesOut<C> = {
  [K in keyof C]: C[K] extends Numbered<infer T> ? { readonly case: K; readonly value: OutOf<T> } : never
}[keyof C]
type CasesIn<C> = {
  [K in keyof C]: C[K] extends Numbered<infer T> ? { readonly case: K; readonly value: InOf<T> } : never
}[keyof C]

/** What decoding gives. */
export type Decoded<M> = M extends MessageType<infer O, infer _> ? O : never
/** What encoding takes: the same with every field optional. */
export type Encodable<M> = M extends MessageType<infer _, infer I> ? I : never

/** A singular field; of a message, absence is undefined. */
export function field<T extends AnyType>(
  number: number,
  type: T,
): Field<T extends { kind: 'message' } ? OutOf<T> | undefined : OutOf<T>, InOf<T>> {
  return { entries: [{ number, type, label: 'implicit' }] }
}

/** A scalar whose absence differs from its zero. */
export function optional<T extends ScalarType<unknown>>(
  number: number,
  type: T,
): Field<OutOf<T> | undefined, InOf<T>> {
  return { entries: [{ number, type, label: 'optional' }] }
}

export function repeated<T extends AnyType>(
  number: number,
  type: T,
): Field<readonly OutOf<T>[], readonly InOf<T>[]> {
  return { entries: [{ number, type, label: 'repeated' }] }
}

export function mapOf<K extends ScalarType<unknown>, T extends AnyType>(
  number: number,
  key: K,
  type: T,
): Field<ReadonlyMap<OutOf<K>, OutOf<T>>, ReadonlyMap<InOf<K>, InOf<T>>> {
  return { entries: [{ number, key, type, label: 'map' }] }
}

/** Alternatives: `{ case, value }` of the one that is set, or undefined. */
export function oneOf<const C extends Readonly<Record<string, Numbered<AnyType>>>>(
  cases: C,
): Field<CasesOut<C> | undefined, CasesIn<C>> {
  const entries = Object.entries(cases).map(([alternative, { number, type }]) => ({
    number,
    type,
    alternative,
    label: 'oneof' as const,
  }))
  return { entries }
}

/** An alternative of `oneOf`. */
export function when<T extends AnyType>(number: number, type: T): Numbered<T> {
  return { number, type }
}

export function message<F extends Fields>(
  proto: string,
  fields: F,
): MessageType<MessageOut<F>, MessageIn<F>> {
  // A program knows many more messages than it uses.
  let known: readonly Entry[] | undefined
  const entriesOf = (): readonly Entry[] => {
    known ??= tableOf(proto, fields)
    return known
  }
  return {
    kind: 'message',
    proto,
    get entries() {
      return entriesOf()
    },
    encode(value) {
      const writer = createWriter()
      writeFields(writer, entriesOf(), value)
      return written(writer)
    },
    decode(bytes) {
      const reader = createReader(bytes)
      const target = blank(entriesOf())
      readFields(reader, entriesOf(), target)
      // The loop above fills exactly the fields of the table, which is what MessageOut spells.
      return target as MessageOut<F>
    },
  }
}

function tableOf(proto: string, fields: Fields): readonly Entry[] {
  const entries = Object.entries(fields)
    .flatMap(([name, { entries }]): Entry[] => entries.map((entry) => ({ ...entry, name })))
    .sort((a, b) => a.number - b.number)
  const table = new Map(entries.map((entry) => [entry.number, entry]))
  if (table.size !== entries.length) throw new Error(`${proto} uses a field number twice`)
  tables.set(entries, table)
  return entries
}

type Target = Record<string, unknown>
const tables = new WeakMap<readonly Entry[], ReadonlyMap<number, Entry>>()

function blank(entries: readonly Entry[]): Target {
  const target: Target = {}
  for (const { name, label, type } of entries) {
    if (label === 'repeated') target[name] = []
    else if (label === 'map') target[name] = new Map()
    else if (label === 'implicit' && type.kind !== 'message') target[name] = type.zero
    else target[name] = undefined
  }
  return target
}

function readFields(reader: WireReader, entries: readonly Entry[], target: Target): void {
  const table = tables.get(entries)
  while (reader.pos < reader.end) {
    const { number, wireType } = readTag(reader)
    const entry = table?.get(number)
    if (entry === undefined || !readEntry(reader, entry, wireType, target)) {
      countElement(reader)
      skipValue(reader, number, wireType, 0)
    }
  }
}

/** False when the wire type is not this field's. */
function readEntry(reader: WireReader, entry: Entry, wireType: number, target: Target): boolean {
  const { name, type, label } = entry
  const expected = label === 'map' || type.kind === 'message' ? DELIMITED : type.wireType
  if (wireType !== expected) {
    const packed = label === 'repeated' && wireType === DELIMITED
    if (!packed || type.kind === 'message') return false
    readPacked(reader, type, target[name])
    return true
  }
  switch (label) {
    case 'repeated':
      countElement(reader)
      push(target[name], readValue(reader, type, undefined))
      return true
    case 'map':
      countElement(reader)
      readMapEntry(reader, entry, target[name])
      return true
    case 'oneof': {
      const current = target[name]
      const before = isAlternative(current, entry.alternative) ? current.value : undefined
      target[name] = { case: entry.alternative, value: readValue(reader, type, before) }
      return true
    }
    default:
      target[name] = readValue(reader, type, target[name])
      return true
  }
}

function readValue(reader: WireReader, type: AnyType, before: unknown): unknown {
  if (type.kind !== 'message') return type.read(reader)
  const target = isTarget(before) ? before : blank(type.entries)
  delimited(reader, () => readFields(reader, type.entries, target))
  return target
}

function readPacked(reader: WireReader, type: ScalarType<unknown>, into: unknown): void {
  delimited(reader, () => {
    while (reader.pos < reader.end) {
      countElement(reader)
      push(into, type.read(reader))
    }
  })
}

function readMapEntry(reader: WireReader, entry: Entry, into: unknown): void {
  const { key: keyType, type } = entry
  if (keyType === undefined || !(into instanceof Map)) throw new Error(`${entry.name} is no map`)
  const pair: readonly Entry[] = mapPair(keyType, type)
  const target = blank(pair)
  delimited(reader, () => readFields(reader, pair, target))
  if (type.kind === 'message' && target['value'] === undefined) target['value'] = blank(type.entries)
  into.set(target['key'], target['value'])
}

const pairs = new WeakMap<AnyType, Map<AnyType, readonly Entry[]>>()

/** A map entry is a message with the key as field 1 and the value as field 2. */
function mapPair(key: ScalarType<unknown>, type: AnyType): readonly Entry[] {
  const byKey = pairs.get(type) ?? new Map<AnyType, readonly Entry[]>()
  pairs.set(type, byKey)
  const known = byKey.get(key)
  if (known !== undefined) return known
  const pair: readonly Entry[] = [
    { number: 1, name: 'key', label: 'implicit', type: key },
    { number: 2, name: 'value', label: 'implicit', type },
  ]
  tables.set(pair, new Map(pair.map((entry) => [entry.number, entry])))
  byKey.set(key, pair)
  return pair
}

function delimited(reader: WireReader, body: () => void): void {
  const outer = reader.end
  reader.end = readEnd(reader)
  body()
  reader.end = outer
}

function writeFields(writer: WireWriter, entries: readonly Entry[], value: unknown): void {
  if (!isTarget(value)) throw new RangeError('a message is an object')
  for (const entry of entries) {
    const current = value[entry.name]
    if (current !== undefined) writeEntry(writer, entry, current)
  }
}

function writeEntry(writer: WireWriter, entry: Entry, value: unknown): void {
  const { number, type, label } = entry
  switch (label) {
    case 'repeated':
      writeRepeated(writer, number, type, value)
      return
    case 'map':
      if (entry.key === undefined || !(value instanceof Map)) throw new RangeError(`${entry.name} is no map`)
      for (const [key, item] of value) {
        writeTag(writer, number, DELIMITED)
        const pair = mapPair(entry.key, type)
        writeDelimited(writer, () => writeFields(writer, pair, { key, value: item }))
      }
      return
    case 'oneof':
      if (isAlternative(value, entry.alternative)) writeValue(writer, number, type, value.value)
      return
    default:
      if (label === 'implicit' && type.kind !== 'message' && type.isZero(value)) return
      writeValue(writer, number, type, value)
  }
}

function writeRepeated(writer: WireWriter, number: number, type: AnyType, values: unknown): void {
  if (!Array.isArray(values)) throw new RangeError('a repeated field is an array')
  if (type.kind === 'message' || type.wireType === DELIMITED) {
    for (const value of values) writeValue(writer, number, type, value)
  } else if (values.length > 0) {
    writeTag(writer, number, DELIMITED)
    writeDelimited(writer, () => {
      for (const value of values) type.write(writer, value)
    })
  }
}

function writeValue(writer: WireWriter, number: number, type: AnyType, value: unknown): void {
  if (type.kind === 'message') {
    writeTag(writer, number, DELIMITED)
    writeDelimited(writer, () => writeFields(writer, type.entries, value))
  } else {
    writeTag(writer, number, type.wireType)
    type.write(writer, value)
  }
}

function isTarget(value: unknown): value is Target {
  return typeof value === 'object' && value !== null
}

function isAlternative(value: unknown, alternative: string | undefined): value is { value: unknown } {
  return isTarget(value) && value['case'] === alternative
}

function push(into: unknown, value: unknown): void {
  if (!Array.isArray(into)) throw new DecodeError('not a repeated field')
  into.push(value)
}
