import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'
import {
  type Authority,
  type Bench,
  makeAuthority,
  openBench,
} from '../../packages/builder-daemon/src/registry/http/loopback.test-support.js'

/** An authority for all tests of a file, and a bench for each, which ends with its test. */
export function useLoopback() {
  let own: Bench
  let authority: Authority
  let bench: Bench
  beforeAll(() => {
    own = openBench()
    authority = makeAuthority(join(own.directory, 'ca'))
  })
  afterAll(() => own.end())
  beforeEach(() => {
    bench = openBench()
  })
  afterEach(() => bench.end())
  return {
    get authority() {
      return authority
    },
    get bench() {
      return bench
    },
  }
}
