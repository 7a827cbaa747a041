import type { Range } from './source.js'

/**
 * The parsed Dockerfile. Words are kept as written (quotes, escapes and `$` unexpanded) wherever the
 * language expands them later; the planner expands with the environment of that line.
 * Semantics: BuildKit's Dockerfile 1.7 frontend.
 */
export interface Dockerfile {
  readonly file: string
  /** The whole source, for error frames. */
  readonly text: string
  readonly escape: '\\' | '`'
  readonly directives: Readonly<Record<string, string>>
  /** ARG instructions before the first FROM. */
  readonly metaArgs: readonly ArgInstruction[]
  /** At least one. */
  readonly stages: readonly Stage[]
}

export interface Stage {
  readonly from: FromInstruction
  /** Lower-cased name, or undefined when the stage has none but its index. */
  readonly name: string | undefined
  readonly instructions: readonly Instruction[]
}

export interface InstructionBase {
  /** The logical instruction, continuation and heredoc lines included. */
  readonly range: Range
  /** The instruction as one line: continuations joined, comments removed, as written otherwise. */
  readonly text: string
}

export interface KeyValue {
  readonly key: string
  readonly value: string
  /** `ENV key value` (rest of line is the value) rather than `key=value`. */
  readonly noDelimiter?: boolean
}

export interface Heredoc {
  /** The delimiter word. */
  readonly name: string
  readonly content: string
  /** False when the delimiter was quoted: `$` is then literal. */
  readonly expand: boolean
  /** `<<-`: leading tabs were stripped. */
  readonly chomp: boolean
  /** `<<EOF` exactly as written. */
  readonly original: string
}

export type Command =
  | { readonly form: 'shell'; readonly line: string }
  | { readonly form: 'exec'; readonly args: readonly string[] }

export interface FromInstruction extends InstructionBase {
  readonly kind: 'from'
  readonly image: string
  readonly platform: string | undefined
  readonly name: string | undefined
}
export interface ArgInstruction extends InstructionBase {
  readonly kind: 'arg'
  readonly args: readonly { readonly key: string; readonly value: string | undefined }[]
}
export interface EnvInstruction extends InstructionBase {
  readonly kind: 'env'
  readonly pairs: readonly KeyValue[]
}
export interface LabelInstruction extends InstructionBase {
  readonly kind: 'label'
  readonly pairs: readonly KeyValue[]
}
export interface MaintainerInstruction extends InstructionBase {
  readonly kind: 'maintainer'
  readonly name: string
}
export interface RunInstruction extends InstructionBase {
  readonly kind: 'run'
  readonly command: Command
  readonly heredocs: readonly Heredoc[]
  /** `--mount=` values as written, unexpanded. */
  readonly mounts: readonly string[]
  readonly network: string | undefined
  readonly security: string | undefined
}
export interface CopyInstruction extends InstructionBase {
  readonly kind: 'copy' | 'add'
  /** Sources as written; those that are heredocs are in `heredocs` and not here. */
  readonly sources: readonly string[]
  readonly heredocs: readonly Heredoc[]
  readonly destination: string
  readonly from: string | undefined
  readonly chown: string | undefined
  readonly chmod: string | undefined
  readonly link: boolean
  readonly parents: boolean
  readonly excludes: readonly string[]
  /** ADD only. */
  readonly checksum: string | undefined
  readonly keepGitDir: boolean
  /** ADD only; undefined = the default (extract local archives, keep remote ones). */
  readonly unpack: boolean | undefined
}
export interface WorkdirInstruction extends InstructionBase {
  readonly kind: 'workdir'
  readonly path: string
}
export interface UserInstruction extends InstructionBase {
  readonly kind: 'user'
  readonly user: string
}
export interface CmdInstruction extends InstructionBase {
  readonly kind: 'cmd' | 'entrypoint'
  readonly command: Command
}
export interface ExposeInstruction extends InstructionBase {
  readonly kind: 'expose'
  readonly ports: readonly string[]
}
export interface VolumeInstruction extends InstructionBase {
  readonly kind: 'volume'
  readonly paths: readonly string[]
}
export interface StopsignalInstruction extends InstructionBase {
  readonly kind: 'stopsignal'
  readonly signal: string
}
export interface ShellInstruction extends InstructionBase {
  readonly kind: 'shell'
  readonly shell: readonly string[]
}
export interface OnbuildInstruction extends InstructionBase {
  readonly kind: 'onbuild'
  /** The trigger as written, e.g. `COPY . /app`. */
  readonly expression: string
}
export interface HealthcheckInstruction extends InstructionBase {
  readonly kind: 'healthcheck'
  /** `none` disables; durations in nanoseconds. */
  readonly test: { readonly none: true } | { readonly none: false; readonly command: Command }
  readonly interval: number | undefined
  readonly timeout: number | undefined
  readonly startPeriod: number | undefined
  readonly startInterval: number | undefined
  readonly retries: number | undefined
}

export type Instruction =
  | ArgInstruction
  | EnvInstruction
  | LabelInstruction
  | MaintainerInstruction
  | RunInstruction
  | CopyInstruction
  | WorkdirInstruction
  | UserInstruction
  | CmdInstruction
  | ExposeInstruction
  | VolumeInstruction
  | StopsignalInstruction
  | ShellInstruction
  | OnbuildInstruction
  | HealthcheckInstruction
