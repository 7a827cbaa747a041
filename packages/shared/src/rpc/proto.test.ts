import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'
import { describe, expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { builderService } from './builder.js'
import type { AnyType, Entry, MessageType } from './codec.js'
import { controlService, EarlierSaveRequest } from './control.js'
import type { AnyMethod } from './service.js'
import { DecodeError } from './wire-reader.js'
import type { EnumType } from './wire-types.js'

type AnyMessage = MessageType<unknown, unknown>

const protoRoot = fileURLToPath(new URL('../../../../proto/', import.meta.url))
const root = new protobuf.Root()
const bundled = root.resolvePath
root.resolvePath = (origin, target) =>
  target.startsWith('isula_build/') ? protoRoot + target : bundled(origin, target)
root.loadSync(['isula_build/v1/control.proto', 'isula_build/builder/v1/builder.proto'])
root.resolveAll()

const services = {
  'isula.build.v1.Control': controlService,
  'isula.builder.v1.Builder': builderService,
} satisfies Record<string, Record<string, AnyMethod>>

const messages = new Map<string, AnyMessage>()
const enums = new Map<string, EnumType<string>>()
for (const service of Object.values(services)) {
  for (const method of Object.values(service)) {
    collect(method.requestType)
    collect(method.responseType)
  }
}
collect(EarlierSaveRequest)

function collect(type: AnyType): void {
  if (type.kind === 'enum') enums.set(type.proto, type as EnumType<string>)
  if (type.kind !== 'message' || messages.has(type.proto)) return
  messages.set(type.proto, type)
  for (const entry of type.entries) collect(entry.type)
}

describe('the tables agree with the .proto files', () => {
  test.each(Object.entries(services))('in every method of %s', (name, service) => {
    const declared = root.lookupService(name).methodsArray.map((method) => ({
      path: `/${name}/${method.name}`,
      request: method.resolvedRequestType?.fullName.slice(1),
      response: method.resolvedResponseType?.fullName.slice(1),
      requestStream: method.requestStream === true,
      responseStream: method.responseStream === true,
    }))
    const ours = Object.entries(service as Record<string, AnyMethod>).map(([key, method]) => {
      expect(method.originalName).toBe(key)
      const { path, requestStream, responseStream } = method
      return {
        path,
        request: method.requestType.proto,
        response: method.responseType.proto,
        requestStream,
        responseStream,
      }
    })
    expect(ours).toEqual(declared)
  })

  test.each([...messages.keys()])('in every field of %s', (name) => {
    const declared = root.lookupType(name)
    const ours = messages.get(name)?.entries ?? []
    expect(ours.map(describeEntry)).toEqual(
      [...declared.fieldsArray].sort((a, b) => a.id - b.id).map(describeField),
    )
  })

  test('in every enum', () => {
    for (const [name, type] of enums) expect(type.values).toEqual(root.lookupEnum(name).values)
  })

  test('and leave nothing out', () => {
    const declared: string[] = []
    const walk = (space: protobuf.NamespaceBase): void => {
      for (const nested of space.nestedArray) {
        if (nested instanceof protobuf.Type || nested instanceof protobuf.Enum)
          declared.push(nested.fullName.slice(1))
        if (nested instanceof protobuf.Namespace) walk(nested)
      }
    }
    for (const space of ['isula.build.v1', 'isula.builder.v1']) walk(root.lookup(space) as protobuf.Namespace)
    const ours = new Set([...messages.keys(), ...enums.keys()])
    expect(declared.filter((name) => !ours.has(name))).toEqual([])
    expect(declared.length).toBeGreaterThan(90)
  })
})

function describeEntry({ number, name, label, type, key, alternative }: Entry): object {
  return {
    number,
    name: alternative ?? name,
    label,
    type: type.proto,
    key: key?.proto,
    of: alternative && name,
  }
}

function describeField(field: protobuf.Field): object {
  const options: Record<string, unknown> = field.options ?? {}
  const isOptional = options['proto3_optional'] === true
  const of = isOptional ? undefined : field.partOf?.name
  const single = isOptional ? 'optional' : of === undefined ? 'implicit' : 'oneof'
  return {
    number: field.id,
    name: field.name,
    label: field.map ? 'map' : field.repeated ? 'repeated' : single,
    type: field.resolvedType?.fullName.slice(1) ?? field.type,
    key: field instanceof protobuf.MapField ? field.keyType : undefined,
    of,
  }
}

// Of processor time; on the clock it may be many times that.
const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? 5)
const seed = Number(process.env['ISULA_FUZZ_SEED'] ?? Date.now() >>> 0)

describe('random messages', () => {
  test(
    'mean the same to another implementation, both ways',
    () => {
      const until = processorTime() + seconds * 100
      for (let round = 0; round < 100 || processorTime() < until; round++) {
        const random = generator(seed + round)
        for (const [name, type] of messages) {
          const where = `${name}, ISULA_FUZZ_SEED=${seed + round}`
          const value = randomMessage(type, random)
          const theirs = root.lookupType(name)
          const ours = type.encode(value)
          const seen = theirs.toObject(theirs.decode(ours), { longs: String, enums: String })
          expect(plain(seen), where).toEqual(plain(neutral(type, value)))
          const bytes = theirs.encode(theirs.fromObject(plainForThem(type, value))).finish()
          expect(neutral(type, type.decode(bytes)), where).toEqual(neutral(type, type.decode(ours)))
          expect(neutral(type, type.decode(ours)), where).toEqual(neutral(type, value))
        }
      }
    },
    seconds * 30_000 + 30_000,
  )

  test(
    'decode or are refused when damaged, and decode the same once encoded again',
    () => {
      const until = processorTime() + seconds * 1000
      let refused = 0
      let accepted = 0
      for (let round = 0; round < 50 || processorTime() < until; round++) {
        const random = generator(seed + round)
        for (const [name, type] of messages) {
          const damaged = damage(type.encode(randomMessage(type, random)), random)
          let value: unknown
          try {
            value = type.decode(damaged)
          } catch (error) {
            expect(error, `${name}, ISULA_FUZZ_SEED=${seed + round}`).toBeInstanceOf(DecodeError)
            refused++
            continue
          }
          accepted++
          if (JSON.stringify(neutral(type, value)).includes('UNRECOGNIZED')) continue
          expect(type.decode(type.encode(value)), `${name}, ISULA_FUZZ_SEED=${seed + round}`).toEqual(value)
        }
      }
      expect(Math.min(refused, accepted)).toBeGreaterThan(100)
    },
    seconds * 30_000 + 30_000,
  )
})

type Random = (below: number) => number

function generator(start: number): Random {
  let state = start | 0
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

function randomMessage(type: AnyMessage, random: Random): Record<string, unknown> {
  const value: Record<string, unknown> = {}
  for (const { name, label, type: of, key, alternative } of type.entries) {
    if (random(4) === 0) continue
    if (label === 'repeated') value[name] = Array.from({ length: random(4) }, () => randomValue(of, random))
    else if (label === 'map' && key !== undefined) {
      value[name] = new Map(
        Array.from({ length: random(4) }, () => [randomValue(key, random), randomValue(of, random)]),
      )
    } else if (label === 'oneof') value[name] = { case: alternative, value: randomValue(of, random) }
    else value[name] = randomValue(of, random)
  }
  return value
}

const texts = [
  '',
  'a',
  'é€😀',
  '\0',
  '__proto__',
  'constructor',
  'x'.repeat(127),
  'y'.repeat(128),
  'z'.repeat(20_000),
]

function randomValue(type: AnyType, random: Random): unknown {
  if (type.kind === 'message') return randomMessage(type, random)
  if (type.kind === 'enum') {
    const names = Object.keys((type as EnumType<string>).values)
    return names[random(names.length)]
  }
  switch (type.proto) {
    case 'string':
      return texts[random(texts.length)]
    case 'bytes':
      return Buffer.from(Array.from({ length: random(200) }, () => random(256)))
    case 'bool':
      return random(2) === 1
    case 'int32':
      return [0, 1, -1, 127, 128, 0x7fff_ffff, -0x8000_0000][random(7)]
    case 'uint32':
      return [0, 1, 127, 128, 16_384, 0xffff_ffff][random(6)]
    case 'int64':
      return [0, 1, -1, 2 ** 31, 2 ** 32, -(2 ** 35), 2 ** 53 - 1, -(2 ** 53) + 1][random(8)]
    case 'uint64':
      return typeof type.zero === 'bigint'
        ? [0n, 1n, 1n << 31n, 1n << 32n, (1n << 64n) - 1n][random(5)]
        : [0, 1, 2 ** 32, 2 ** 53 - 1][random(4)]
    default:
      throw new Error(`no random ${type.proto}`)
  }
}

/** Defaults dropped, oneofs flattened, numbers of 64 bits and bytes as text: comparable by value. */
function neutral(type: AnyMessage, value: unknown): Record<string, unknown> {
  const source = value as Record<string, unknown>
  const result: Record<string, unknown> = Object.create(null)
  for (const entry of type.entries) {
    const { name, label, type: of } = entry
    const current = source[name]
    if (current === undefined) continue
    if (label === 'repeated') {
      const items = (current as unknown[]).map((item) => neutralValue(of, item))
      if (items.length > 0) result[name] = items
    } else if (label === 'map') {
      const items = [...(current as Map<string, unknown>)].map(([k, v]) => [k, neutralValue(of, v)])
      if (items.length > 0) result[name] = Object.fromEntries(items.filter(([k]) => k !== '__proto__'))
    } else if (label === 'oneof') {
      const chosen = current as { case: string; value: unknown }
      if (chosen.case === entry.alternative) result[chosen.case] = neutralValue(of, chosen.value)
    } else if (label === 'optional' || of.kind === 'message' || !of.isZero(current)) {
      result[name] = neutralValue(of, current)
    }
  }
  return result
}

function neutralValue(type: AnyType, value: unknown): unknown {
  if (type.kind === 'message') return neutral(type, value)
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  return type.proto.endsWith('64') ? String(value) : value
}

/** Their decoded object in the form of `neutral`. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  const items = Object.entries(value).filter(([key, item]) => key !== '__proto__' && !isEmptyList(item))
  return Object.fromEntries(items.map(([key, item]) => [key, plain(item)]))
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0
}

/** What their `fromObject` takes. */
function plainForThem(type: AnyMessage, value: Record<string, unknown>): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const { name, label, type: of, alternative } of type.entries) {
    const current = value[name]
    if (current === undefined) continue
    const one = (item: unknown): unknown =>
      of.kind === 'message'
        ? plainForThem(of, item as Record<string, unknown>)
        : typeof item === 'bigint'
          ? String(item)
          : item
    if (label === 'repeated') result[name] = (current as unknown[]).map(one)
    else if (label === 'map') {
      result[name] = Object.fromEntries([...(current as Map<string, unknown>)].map(([k, v]) => [k, one(v)]))
    } else if (label === 'oneof') {
      const chosen = current as { case: string; value: unknown }
      if (chosen.case === alternative) result[chosen.case] = one(chosen.value)
    } else result[name] = one(current)
  }
  return result
}

function damage(bytes: Buffer, random: Random): Buffer {
  const copy = Buffer.from(bytes)
  for (let times = random(4); times > 0 && copy.length > 0; times--) copy[random(copy.length)] = random(256)
  switch (random(4)) {
    case 0:
      return copy.subarray(0, random(copy.length + 1))
    case 1:
      return Buffer.concat([copy, Buffer.from(Array.from({ length: random(8) }, () => random(256)))])
    case 2:
      return Buffer.from(Array.from({ length: random(40) }, () => random(256)))
    default:
      return copy
  }
}
