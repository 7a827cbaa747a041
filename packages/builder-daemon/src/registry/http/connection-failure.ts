import { shown } from './error-text.js'
import { NoAnswer } from './no-answer.js'

const certificates =
  'Put the authority that signed it into certs.d as `ca.crt`, or mark the registry `insecure` in registries.toml.'

/** Reasons that OpenSSL and Node give for a failed handshake, in words. */
const tlsReasons: readonly (readonly [RegExp, string, string | undefined])[] = [
  [
    /^CERT_HAS_EXPIRED$/,
    'its certificate has expired',
    'The registry needs a new certificate; check the clock of this machine too.',
  ],
  [/^CERT_NOT_YET_VALID$/, 'its certificate is not valid yet', 'Check the clock of this machine.'],
  [/^DEPTH_ZERO_SELF_SIGNED_CERT$/, 'its certificate is self-signed', certificates],
  [
    /^(?:SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_GET_ISSUER_CERT(?:_LOCALLY)?|UNABLE_TO_VERIFY_LEAF_SIGNATURE|CERT_UNTRUSTED)$/,
    'its certificate is signed by an unknown authority',
    certificates,
  ],
  [
    /^ERR_TLS_CERT_ALTNAME_INVALID$/,
    'its certificate is for another host',
    'Use the name that the certificate is for.',
  ],
  [/^CERT_REVOKED$/, 'its certificate is revoked', undefined],
  [
    /CERTIFICATE_REQUIRED/,
    'it requires a client certificate',
    'Put `client.cert` and `client.key` into certs.d for this host.',
  ],
  [
    /ALERT_(?:UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_(?:EXPIRED|REVOKED|UNKNOWN)|UNSUPPORTED_CERTIFICATE|ACCESS_DENIED)/,
    'it does not accept our client certificate',
    'Check `*.cert` and `*.key` in certs.d for this host.',
  ],
  [
    /UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|VERSION_TOO_LOW/,
    'it speaks only TLS older than 1.2',
    'The registry has to offer TLS 1.2 or newer.',
  ],
  [
    /HANDSHAKE_FAILURE|NO_SHARED_CIPHER|INSUFFICIENT_SECURITY/,
    'it refused the TLS handshake (no common parameters, or it requires a client certificate)',
    'Put `client.cert` and `client.key` into certs.d if it wants a client certificate.',
  ],
]

const plainHttp =
  /WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|BAD_PROTOCOL_VERSION_NUMBER|UNEXPECTED_MESSAGE|RECORD_LAYER_FAILURE/

const passing =
  /^(?:ECONNRESET|ECONNREFUSED|EPIPE|ETIMEDOUT|ECONNABORTED|EHOSTUNREACH|ENETUNREACH|ENETDOWN|EHOSTDOWN|EAI_AGAIN)$/

const causes: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'the connection was closed before an answer came',
  EPIPE: 'the connection was closed before an answer came',
  ETIMEDOUT: 'no connection (timed out)',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'the network is unreachable',
  ENOTFOUND: 'no such host (DNS)',
  EAI_AGAIN: 'DNS does not answer',
  HPE_HEADER_OVERFLOW: 'the head of the answer is longer than 16 KiB',
}

/** What Node says about a connection that failed, in words; `connecting`: nothing of a request was sent yet. */
export function connectionFailure(error: unknown, connecting: boolean): NoAnswer {
  if (error instanceof NoAnswer) return error
  const failure = first(error)
  const code = failure.code ?? ''
  // Parser errors carry the bytes of the answer, which may hold secrets.
  if ('rawPacket' in failure) delete failure.rawPacket
  const reason = tlsReasons.find(([pattern]) => pattern.test(code))
  if (reason !== undefined) {
    return new NoAnswer(`no secure connection: ${reason[1]}`, {
      transient: false,
      hint: reason[2],
      cause: error,
    })
  }
  if (plainHttp.test(code)) {
    return new NoAnswer('no secure connection: it does not speak TLS', {
      transient: false,
      noTls: connecting,
      hint: 'If it serves plain HTTP only, mark the registry `insecure` in registries.toml.',
      cause: error,
    })
  }
  const words =
    causes[code] ?? (code.startsWith('HPE_') ? `it does not speak HTTP (${code})` : shown(failure.message))
  const hint =
    code === 'ENOTFOUND'
      ? 'Check the name of the registry, DNS and the proxy settings of the daemon.'
      : undefined
  return new NoAnswer(words, {
    transient: passing.test(code),
    refused: code === 'ECONNREFUSED',
    noTls: connecting && passing.test(code),
    hint,
    cause: error,
  })
}

/** Of several addresses that were tried, why the first failed. */
function first(error: unknown): NodeJS.ErrnoException {
  const inner: unknown = error instanceof AggregateError ? error.errors[0] : error
  return inner instanceof Error ? inner : new Error(String(inner))
}
