import { type Decoded, field, message } from './codec.js'
import { int32, int64 } from './wire-types.js'

export const Empty = message('google.protobuf.Empty', {})

/** Seconds since the epoch and nanoseconds 0…999999999 (google/protobuf/timestamp.proto). */
export const Timestamp = message('google.protobuf.Timestamp', {
  seconds: field(1, int64),
  nanos: field(2, int32),
})
export type Timestamp = Decoded<typeof Timestamp>

/** 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z. */
const firstSecond = -62_135_596_800
const lastSecond = 253_402_300_799

/** Milliseconds since the epoch, rounded down; undefined for what the format does not allow. */
export function timestampToMillis(timestamp: Timestamp): number | undefined {
  const { seconds, nanos } = timestamp
  if (seconds < firstSecond || seconds > lastSecond || nanos < 0 || nanos > 999_999_999) return undefined
  return seconds * 1000 + Math.floor(nanos / 1_000_000)
}

export function timestampFromMillis(millis: number): Timestamp {
  const seconds = Math.floor(millis / 1000)
  return { seconds, nanos: Math.floor(millis - seconds * 1000) * 1_000_000 }
}
