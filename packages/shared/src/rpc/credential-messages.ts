import { type Decoded, field, message, optional } from './codec.js'
import { bool, text, uint32 } from './wire-types.js'

// proto/isula_build/builder/v1/builder.proto: how registries are spoken to. Meanings stand there.
const name = (message: string): string => `isula.builder.v1.${message}`

export const TransferOptionsMessage = message(name('TransferOptions'), {
  tlsVerify: optional(1, bool),
  retries: optional(2, uint32),
  retryDelay: optional(3, uint32),
})
export type TransferOptionsMessage = Decoded<typeof TransferOptionsMessage>

export const CredentialsMessage = message(name('Credentials'), {
  username: field(1, text),
  password: field(2, text),
})
export const NeedCredentials = message(name('NeedCredentials'), {
  question: field(1, uint32),
  host: field(2, text),
  repository: field(3, text),
  named: field(4, text),
})
export type NeedCredentials = Decoded<typeof NeedCredentials>
export const CredentialAnswer = message(name('CredentialAnswer'), {
  question: field(1, uint32),
  credentials: field(2, CredentialsMessage),
  explicit: field(3, bool),
})
export type CredentialAnswer = Decoded<typeof CredentialAnswer>

export const PushOptionsMessage = message(name('PushOptions'), {
  format: field(1, text),
  compression: field(2, text),
  level: optional(3, uint32),
})
export type PushOptionsMessage = Decoded<typeof PushOptionsMessage>
