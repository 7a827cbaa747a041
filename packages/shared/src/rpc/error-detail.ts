import { type Decoded, field, message, optional, repeated } from './codec.js'
import { int32, text, uint32 } from './wire-types.js'

// proto/isula_build/builder/v1/builder.proto: what errors carry.

export const SourceRangeMessage = message('isula.builder.v1.SourceRange', {
  file: field(1, text),
  startLine: field(2, uint32),
  startColumn: field(3, uint32),
  endLine: field(4, uint32),
  endColumn: field(5, uint32),
  lines: repeated(6, text),
})
export type SourceRangeMessage = Decoded<typeof SourceRangeMessage>

export const ErrorDetail = message('isula.builder.v1.ErrorDetail', {
  code: field(1, text),
  message: field(2, text),
  hint: field(3, text),
  source: field(4, SourceRangeMessage),
  step: field(5, text),
  exitCode: optional(6, int32),
  logTail: repeated(7, text),
})
export type ErrorDetail = Decoded<typeof ErrorDetail>
