/** Words that shared memory of every layout begins with. LOST, the threads that died while they helped, is the pool's to set. */
export const LOST = 0
/** Not 0 once the job is over: whoever helps leaves. */
export const CLOSED = 1
export const SIGNAL = 2

/** A thread that helped died, maybe with a part of the work. */
export function tellLoss(memory: SharedArrayBuffer): void {
  Atomics.add(new Int32Array(memory, 0, 1), LOST, 1)
}

/** Sends those away who help a job whose thread died: nobody else would. */
export function closeAbandoned(memory: SharedArrayBuffer): void {
  const words = new Int32Array(memory, 0, SIGNAL + 1)
  Atomics.store(words, CLOSED, 1)
  Atomics.add(words, SIGNAL, 1)
  Atomics.notify(words, SIGNAL)
}
