import type { FromInstruction, Instruction } from '@isula-build/shared/dockerfile/instructions.js'
import { processWord } from '@isula-build/shared/dockerfile/words.js'
import { describeStep } from './describe.js'
import type { ArgumentUse, StepDefinition } from './plan.js'
import type { StageState } from './stage-state.js'

/** Of an instruction that `state` has just planned; `entries` are what it added to the history. */
export function instructionDefinition(
  instruction: Instruction,
  state: StageState,
  entries: readonly string[],
): StepDefinition {
  const uses = instruction.kind === 'run' ? [...state.argumentsOf.values()].flat() : usesOf(state)
  return {
    instruction: instruction.kind,
    text: textOf(instruction),
    meaning: entries.join('\n'),
    args: distinct(uses),
  }
}

/** Of a FROM; `base` is what it starts from. */
export function fromDefinition(
  from: FromInstruction,
  globals: ReadonlyMap<string, string>,
  base: { readonly meaning: string; readonly stage?: number; readonly escape: '\\' | '`' },
): StepDefinition {
  const words = [from.image, from.platform ?? ''].filter((word) => word.includes('$'))
  const names = words.flatMap((word) => [...processWord(word, globals, base).matched])
  return {
    instruction: 'from',
    text: textOf(from),
    meaning: base.meaning,
    args: names.map((name) => ({ name, value: globals.get(name) ?? '' })),
    ...(base.stage === undefined ? {} : { baseStage: base.stage }),
  }
}

/** Build args behind the variables that were read since `variables.reads` was cleared. */
export function usesOf(state: StageState): readonly ArgumentUse[] {
  return distinct([...state.variables.reads].flatMap((name) => state.argumentsOf.get(name) ?? []))
}

function distinct(uses: readonly ArgumentUse[]): readonly ArgumentUse[] {
  return [...new Map(uses.map((use) => [use.name, use])).values()]
}

function textOf(instruction: Instruction | FromInstruction): string {
  const line = describeStep(instruction).replace(/\s+/g, ' ')
  const heredocs = 'heredocs' in instruction ? instruction.heredocs : []
  return [line, ...heredocs.map(({ content }) => content)].join('\n')
}
