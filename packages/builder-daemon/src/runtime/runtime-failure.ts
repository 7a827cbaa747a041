/** Why a container did not start, in the words Docker users know. */
export interface RuntimeFailure {
  readonly message: string
  /** 127: no such program; 126: it cannot be executed; 125: anything else (docker-run(1) "Exit Status"). */
  readonly exitCode: 125 | 126 | 127
}

const notFound = /executable file .*not found|no such file or directory/i
const notExecutable = /permission denied|is a directory|exec format error|operation not permitted/i

/** From a runtime's JSON log (runc and crun `--log-format json`) and what it wrote to its stderr. */
export function runtimeFailure(log: string, output: string): RuntimeFailure {
  const messages = log.split('\n').flatMap(errorMessage)
  const said = messages.at(-1) ?? output.trim().split('\n').at(-1) ?? ''
  const exec = /exec:? "?\S.*$/s.exec(said)?.[0] ?? crunExecutable(said)
  if (exec !== undefined) {
    if (notFound.test(exec)) return { message: exec, exitCode: 127 }
    if (notExecutable.test(exec)) return { message: exec, exitCode: 126 }
  }
  const reason = said.replace(/^(runc|crun) (run|create) failed: /, '')
  return {
    message:
      reason === '' ? 'the container could not be started' : `the container could not be started: ${reason}`,
    exitCode: 125,
  }
}

function crunExecutable(said: string): string | undefined {
  return /executable/i.test(said) ? `exec: ${said}` : undefined
}

function errorMessage(line: string): readonly string[] {
  if (line.trim() === '') return []
  let entry: unknown
  try {
    entry = JSON.parse(line)
  } catch {
    // A runtime that died while writing leaves half a line; the lines before it still count.
    return []
  }
  if (typeof entry !== 'object' || entry === null || !('level' in entry) || !('msg' in entry)) return []
  return entry.level === 'error' && typeof entry.msg === 'string' ? [entry.msg] : []
}
