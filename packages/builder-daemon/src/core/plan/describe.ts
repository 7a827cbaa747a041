import type { FromInstruction, Instruction } from '@isula-build/shared/dockerfile/instructions.js'
import { redactUrls } from '@isula-build/shared/text/redact.js'

/** What everybody sees for a step: the instruction upper-cased, then its line without credentials in URLs. */
export function describeStep(instruction: Instruction | FromInstruction): string {
  const text = redactUrls(instruction.text.trim())
  const end = text.search(/\s/)
  if (end < 0) return text.toUpperCase()
  return `${text.slice(0, end).toUpperCase()} ${text.slice(end).trim()}`
}
