import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Policy } from '../core/policy/policy.js'
import { decodePolicy } from '../core/policy/policy-document.js'
import { readConfigFile } from './config-file.js'

/** Reads policy.json, which must exist. Fails with ISB_CONFIG_INVALID naming file and line. */
export function readPolicyFile(path: string): Policy {
  const text = readConfigFile(path)
  if (text === undefined) throw new BuilderError('ISB_CONFIG_INVALID', `${path} is missing`)
  return decodePolicy(text, path)
}
