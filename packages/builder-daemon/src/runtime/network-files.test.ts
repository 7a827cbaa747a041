import { expect, test } from 'vitest'
import { networkFiles } from './network-files.js'

const hostFiles: Record<string, string> = {
  '/etc/hosts': '127.0.0.1 localhost\n10.0.0.1 build.example # isula-build',
  '/etc/resolv.conf': 'nameserver 10.0.0.53\n',
}
const read = (path: string): string => hostFiles[path] ?? ''

test("on the host's network the files are the host's, and the own name is added when it is not there", () => {
  expect(networkFiles('host', 'isula-build', read)).toEqual({
    hosts: '127.0.0.1 localhost\n10.0.0.1 build.example # isula-build\n127.0.0.1\tisula-build\n',
    resolvConf: 'nameserver 10.0.0.53\n',
  })
  expect(networkFiles('host', 'build.example', read).hosts).toBe(hostFiles['/etc/hosts'])
})

test('without a network, or without files, there is localhost', () => {
  expect(networkFiles('none', 'x', read)).toEqual({
    hosts: '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tx\n',
    resolvConf: '',
  })
  expect(networkFiles('host', 'x', () => '').hosts).toContain('localhost')
})
