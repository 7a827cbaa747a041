/** Eight pieces of 256 KiB and a head; zeros in the head make a pipe of it (see `CompressLayerParams.pipe`). */
const pipeBytes = (2 << 20) + 4096
const headBytes = 4096
/** More than this many are not kept for later. */
const keptPipes = 4

/** Threads hold on to shared memory until they collect garbage, so it is made once and used again and again. */
const idle: SharedArrayBuffer[] = []

/** `work` ends when no thread uses the memory any more. */
export async function withPipe<T>(work: (pipe: SharedArrayBuffer) => Promise<T>): Promise<T> {
  const memory = idle.pop() ?? new SharedArrayBuffer(pipeBytes)
  new Uint8Array(memory, 0, headBytes).fill(0)
  try {
    return await work(memory)
  } finally {
    if (idle.length < keptPipes) idle.push(memory)
  }
}
