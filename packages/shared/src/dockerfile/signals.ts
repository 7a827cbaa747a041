const names = new Set(
  `ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP
  TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX`.split(/\s+/),
)

/** Linux signal names with or without SIG, in any case, `SIGRTMIN+3`, and the numbers 1 to 64 (signal(7)). */
export function isSignal(text: string): boolean {
  if (/^\d{1,3}$/.test(text)) return Number(text) >= 1 && Number(text) <= 64
  const name = text.toUpperCase().replace(/^SIG/, '')
  const realTime = /^(?:RTMIN\+(\d{1,2})|RTMAX-(\d{1,2}))$/.exec(name)
  if (realTime === null) return names.has(name)
  const offset = Number(realTime[1] ?? realTime[2])
  return offset >= 1 && offset <= (realTime[1] === undefined ? 14 : 15)
}
