/**
 * Milliseconds of processor time that this process has used. Unlike time on the clock it does not pass while others
 * have the processor, so what is measured with it means the same on a busy machine.
 */
export function processorTime(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}
