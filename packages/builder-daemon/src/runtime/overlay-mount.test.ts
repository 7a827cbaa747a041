import { expect, test } from 'vitest'
import { overlayOptions } from './overlay-mount.js'

const writable = { upper: '/data/staging/x/upper', work: '/data/staging/x/work' }

test('layers are named top first and relative to the data root where that is shorter', () => {
  expect(overlayOptions({ lowers: ['l/A', 'l/B', '/data/staging/x/stubs'], writable }, '/data')).toBe(
    'lowerdir=staging/x/stubs:l/B:l/A,upperdir=staging/x/upper,workdir=staging/x/work,index=off,redirect_dir=off,metacopy=off',
  )
  expect(overlayOptions({ lowers: ['l/A'], writable: undefined }, '/data')).not.toContain('upperdir')
})

test('a layer that occurs twice counts where it is on top', () => {
  expect(overlayOptions({ lowers: ['l/A', 'l/B', 'l/A'], writable: undefined }, '/data')).toMatch(
    /^lowerdir=l\/A:l\/B,/,
  )
})

test('separators in a path are not separators of options', () => {
  expect(overlayOptions({ lowers: ['/a:b,c\\d'], writable: undefined }, '/data')).toMatch(
    /^lowerdir=\/a\\:b\\,c\\\\d,/,
  )
})

test('more than a page of options is refused with the number of layers', () => {
  const lowers = Array.from({ length: 100 }, (_, n) => `/elsewhere/${'x'.repeat(40)}/${n}`)
  expect(() => overlayOptions({ lowers, writable }, '/data')).toThrow(
    expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED', message: expect.stringContaining('100') }),
  )
})
