import { expect, test } from 'vitest'
import { parseServer } from './server-name.js'

test.each([
  ['quay.io', 'quay.io', ''],
  ['Quay.IO:443', 'quay.io:443', ''],
  ['registry', 'registry', ''],
  ['https://quay.io', 'quay.io', ''],
  ['http://localhost:5000/v2/', 'localhost:5000', ''],
  ['docker://quay.io/a/b', 'quay.io', ''],
  ['https://index.docker.io/v1/', 'docker.io', ''],
  ['index.docker.io', 'docker.io', ''],
  ['registry-1.docker.io', 'docker.io', ''],
  ['quay.io/team/x', 'quay.io', 'team/x'],
  ['quay.io/', 'quay.io', ''],
  ['[::1]:5000', '[::1]:5000', ''],
])('%s is the registry %s, namespace %j', (text, host, namespace) => {
  expect(parseServer(text)).toEqual({ host, namespace })
})

test.each([
  ...[
    '',
    '/',
    '//x',
    '..',
    '../../etc',
    './a',
    'a/b',
    'quay.io/../../etc',
    'quay.io//a',
    'quay.io/A',
    'a\0b',
    'a b',
  ],
  ...[
    'user:pw@quay.io',
    'quay.io:port',
    'quay.io?x',
    'https://',
    'https:///etc',
    '-quay.io',
    'quay..io',
    '.quay.io',
  ],
  ...['quay.io/a:tag', 'quay.io\n', 'q%75ay.io', 'a'.repeat(256), 'ftp://quay.io'],
])('%j is none', (text) => {
  expect(() => parseServer(text)).toThrow(expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID' }))
})
