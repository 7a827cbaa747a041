import { expect, test } from 'vitest'
import { planLines } from './plan-fixture.js'

async function argsOf(lines: readonly string[], buildArgs: Readonly<Record<string, string>> = {}) {
  const { steps } = await planLines(lines, { buildArgs })
  return Object.fromEntries(
    steps.map(({ definition }) => [
      definition.text,
      definition.args.map(({ name, value }) => `${name}=${value}`).join(' '),
    ]),
  )
}

test('an instruction depends on the args behind the variables it reads', async () => {
  const lines = [
    'ARG TAG=latest',
    'FROM busybox AS a',
    'ARG A=1',
    'ARG B=$A-2',
    'ENV C=$B D=plain',
    'LABEL l=$D m=$PATH',
    'LABEL l=$C',
    'ENV C=own',
    'LABEL n=$C',
    'WORKDIR /w/$A',
  ]
  expect(await argsOf(lines, { B: '7' })).toEqual({
    'FROM busybox AS a': '',
    'ARG A=1': 'A=1',
    'ARG B=$A-2': 'B=7',
    'ENV C=$B D=plain': 'B=7',
    'LABEL l=$D m=$PATH': 'B=7',
    'LABEL l=$C': 'B=7',
    'ENV C=own': '',
    'LABEL n=$C': '',
    'WORKDIR /w/$A': 'A=1',
  })
})

test('a RUN depends on all args of its environment, but for proxies', async () => {
  const lines = ['FROM busybox', 'ARG A', 'ARG http_proxy', 'ENV X=1', 'RUN true', 'ENV A=2', 'RUN false']
  const found = await argsOf(lines, { A: 'a', http_proxy: 'p' })
  expect([found['RUN true'], found['RUN false']]).toEqual(['A=a', ''])
})

test('a FROM depends on the args it names', async () => {
  const lines = ['ARG IMAGE=busybox', 'ARG OTHER=1', 'FROM ${IMAGE}', 'FROM $NONE$IMAGE AS b']
  const { steps } = await planLines(lines, { target: 'b' })
  expect(steps.map(({ definition }) => definition)).toEqual([
    {
      ...{ instruction: 'from', text: 'FROM $NONE$IMAGE AS b', meaning: 'image' },
      args: [{ name: 'IMAGE', value: 'busybox' }],
    },
  ])
})

test('the text of a step is the same however it is laid out, and has no credentials', async () => {
  const text = async (line: string) => (await planLines(['FROM busybox', line])).steps[1]?.definition.text
  expect(await text('run   echo \\\n  # comment\n   a')).toBe(await text('RUN echo a'))
  expect(await text('RUN <<EOF\necho a\nEOF')).not.toBe(await text('RUN <<EOF\necho b\nEOF'))
  expect(await text('ADD https://me:TOKEN@h/f /')).not.toContain('TOKEN')
})
