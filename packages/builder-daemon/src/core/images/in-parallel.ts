/** Results in the order of `items`. The first failure stops the rest and is thrown once all are still. */
export async function inParallel<T, R>(
  items: readonly T[],
  limit: number,
  work: (item: T) => Promise<R>,
): Promise<readonly R[]> {
  const results: R[] = []
  const queue = [...items.entries()]
  let failure: { readonly error: unknown } | undefined
  const lane = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined && failure === undefined; next = queue.shift()) {
      const [i, item] = next
      try {
        results[i] = await work(item)
      } catch (error) {
        failure ??= { error }
      }
    }
  }
  await Promise.all(Array.from({ length: limit }, lane))
  if (failure !== undefined) throw failure.error
  return results
}
