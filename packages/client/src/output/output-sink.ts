/** Where this client puts what the daemon streams for an output. Methods are called one after the other. */
export interface OutputSink {
  /** For the user, as in `docker-daemon:a:1`. */
  readonly place: string
  write(data: Uint8Array): Promise<void>
  /** Resolves when everything is where it belongs. */
  finish(): Promise<void>
  /** At any time, also during the others, which fail then: removes at once what is of no use. */
  abort(): void
}
