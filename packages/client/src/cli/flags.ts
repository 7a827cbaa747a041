import type { Flag } from './command.js'

// Short for the usual flags of the tables.

export const strings = (name: string, help: string, short?: string): Flag => ({
  ...{ name, help, type: 'strings' },
  ...(short === undefined ? {} : { short }),
})

export const string = (name: string, help: string, short?: string): Flag => ({
  ...{ name, help, type: 'string' },
  ...(short === undefined ? {} : { short }),
})

export const bool = (name: string, help: string, short?: string): Flag => ({
  ...{ name, help, type: 'bool' },
  ...(short === undefined ? {} : { short }),
})
