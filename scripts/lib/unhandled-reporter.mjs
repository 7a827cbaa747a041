import { writeFileSync } from 'node:fs'

/** Writes the messages of errors outside any test, which vitest's JSON report leaves out. */
export default class UnhandledReporter {
  #path

  onInit(vitest) {
    this.#path = vitest.config.outputFile.unhandled
  }

  onTestRunEnd(_modules, errors) {
    writeFileSync(this.#path, JSON.stringify(errors.map((error) => String(error.message))))
  }
}
