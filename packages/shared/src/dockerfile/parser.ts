import { keywordOf } from './go-text.js'
import { failure, type InstructionInput } from './instruction-input.js'
import { checkTrigger, parseInstruction } from './instruction-parser.js'
import type { ArgInstruction, Dockerfile, FromInstruction, Instruction, Stage } from './instructions.js'
import { type Escape, type LogicalLine, logicalLines, readDirectives } from './lexer.js'
import { readSource, type SourceFile, sourceError } from './source-file.js'

/** Names that BuildKit advises against for a stage: `scratch` and the build context. They are valid. */
export const reservedStageNames: ReadonlySet<string> = new Set(['scratch', 'context'])

/** Instructions a Dockerfile may have, in all stages: five times the steps of the longest build. */
const maxInstructions = 25_000

/**
 * Parses a Dockerfile of at most 1 MiB and 25,000 instructions. Syntax and semantics are those of BuildKit's Dockerfile
 * 1.7 frontend, except that a stage name may begin with a digit and has at most 64 characters, that two stages may not
 * share one, and that CRLF is LF in here-documents too.
 *
 * Fails with ISB_DOCKERFILE_SYNTAX, ISB_UNKNOWN_INSTRUCTION, ISB_UNKNOWN_FLAG or ISB_LIMIT_EXCEEDED; the
 * first error of the file, with its place.
 */
export function parseDockerfile(source: Uint8Array | string, file: string): Dockerfile {
  const sourceFile = readSource(source, file)
  const directives = readDirectives(sourceFile)
  const metaArgs: ArgInstruction[] = []
  const stages: { from: FromInstruction; name: string | undefined; instructions: Instruction[] }[] = []
  const named = new Map<string, FromInstruction>()
  let count = 0
  for (const line of logicalLines(sourceFile, directives.escape)) {
    count++
    const input = inputOf(sourceFile, line, directives.escape)
    if (count > maxInstructions) throw tooManyInstructions(input)
    const instruction = parseInstruction(input)
    if (instruction.kind === 'from') {
      const name = instruction.name?.toLowerCase()
      const earlier = name === undefined ? undefined : named.get(name)
      if (earlier !== undefined) throw duplicateStage(input, instruction, earlier)
      if (name !== undefined) named.set(name, instruction)
      stages.push({ from: instruction, name, instructions: [] })
      continue
    }
    const stage = stages.at(-1)
    if (stage !== undefined) stage.instructions.push(instruction)
    else if (instruction.kind === 'arg') metaArgs.push(instruction)
    else throw beforeFrom(input)
  }
  if (stages.length === 0) throw noStages(sourceFile, count)
  return {
    file,
    text: sourceFile.text,
    escape: directives.escape,
    directives: directives.values,
    metaArgs,
    stages: stages satisfies Stage[],
  }
}

/**
 * Parses the trigger of an ONBUILD as an image's config keeps it: one instruction, here-documents included.
 * FROM, MAINTAINER and ONBUILD fail. `file` names its origin in errors, e.g. `ONBUILD of alpine:3`.
 */
export function parseOnbuild(expression: string, file: string): Instruction {
  const source = readSource(expression, file)
  const directives = readDirectives(source)
  let instruction: Instruction | undefined
  for (const line of logicalLines(source, directives.escape)) {
    const input = inputOf(source, line, directives.escape)
    if (instruction !== undefined) {
      throw failure(input, input.statement.keyword, 'an ONBUILD trigger must be one instruction', {
        hint: 'Rebuild the base image with one ONBUILD for each.',
      })
    }
    instruction = checkTrigger(input)
  }
  if (instruction !== undefined) return instruction
  throw sourceError(source, 0, 0, 'ISB_DOCKERFILE_SYNTAX', 'the ONBUILD trigger is empty', {
    hint: 'Rebuild the base image with an instruction behind ONBUILD.',
  })
}

function inputOf(source: SourceFile, line: LogicalLine, escapeToken: Escape): InstructionInput {
  const { statement } = line
  return { source, line, statement, keyword: keywordOf(statement.keyword.text), escape: escapeToken }
}

function duplicateStage(input: InstructionInput, from: FromInstruction, earlier: FromInstruction) {
  const { rest } = input.statement
  const name = from.name ?? ''
  const span = { start: rest.end - name.length, end: rest.end }
  return failure(input, span, `duplicate stage name "${name}"`, {
    hint: `Line ${earlier.range.start.line} already defines it; give one of the two another name.`,
  })
}

function tooManyInstructions(input: InstructionInput) {
  const message = `the Dockerfile has more than ${maxInstructions} instructions`
  return failure(input, input.statement.keyword, message, {
    code: 'ISB_LIMIT_EXCEEDED',
    hint: 'Join instructions, or split the Dockerfile.',
  })
}

function beforeFrom(input: InstructionInput) {
  return failure(
    input,
    input.statement.keyword,
    `${input.keyword} before the first FROM: there is no build stage yet`,
    {
      hint: 'Only ARG may stand before FROM.',
    },
  )
}

function noStages(source: SourceFile, instructions: number) {
  const message =
    instructions === 0
      ? 'the Dockerfile is empty: it has no instructions'
      : 'the Dockerfile has no FROM instruction'
  return sourceError(source, 0, 0, 'ISB_DOCKERFILE_SYNTAX', message, {
    hint: 'Begin with FROM IMAGE, or FROM scratch.',
  })
}
