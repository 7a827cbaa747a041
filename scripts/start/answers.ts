import { encodeBuildEvent } from '@isula-build/shared/rpc/build-event.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'

const { Build, Images, Info, Load, Pull, Push, Remove, Save, Tag, Version } = builderService
const id = '0'.repeat(64)
const name = 'localhost/a:latest'
const at = Date.UTC(2026, 0, 1)

/** What a daemon would say, by path of the method: plausible messages, so that a client has something to show. */
export const answers: Readonly<Record<string, readonly Buffer[]>> = {
  [Version.path]: [
    Version.responseSerialize({
      version: '0',
      runtimeVersion: '0',
      gitCommit: '0',
      builtAt: at,
      platform: 'p',
    }),
  ],
  [Images.path]: [
    Images.responseSerialize({
      images: [
        { id, names: [name], createdAt: at, size: 1_234_567 },
        { id, names: [], createdAt: at, size: 0 },
      ],
    }),
  ],
  [Info.path]: [Info.responseSerialize({ memTotal: 1, searchRegistries: ['a'], memory: { system: 1 } })],
  [Build.path]: [
    ...[
      encodeBuildEvent({ kind: 'queued', at, position: 1 }),
      encodeBuildEvent({ kind: 'started', at, buildId: 'b', totalSteps: 1 }),
      encodeBuildEvent({ kind: 'step-started', at, step: 1, stage: '0', text: 'FROM scratch' }),
      encodeBuildEvent({ kind: 'output', at, step: 1, data: Buffer.from('text\n') }),
      encodeBuildEvent({ kind: 'step-finished', at, step: 1, outcome: 'cached' }),
      ...(['no-cache', 'never-built'] as const).map((reason) =>
        encodeBuildEvent({
          kind: 'step-finished',
          at,
          step: 1,
          outcome: 'done',
          cache: { status: 'miss', reason: { kind: reason } },
        }),
      ),
      encodeBuildEvent({ kind: 'stage-committed', at, stage: 0, imageId: id }),
      encodeBuildEvent({ kind: 'finished', at, imageId: id, names: [name] }),
    ].map((value) => Build.responseSerialize({ payload: { case: 'event', value } })),
    Build.responseSerialize({ payload: { case: 'result', value: { imageId: id, names: [name] } } }),
  ],
  [Tag.path]: [Tag.responseSerialize({})],
  [Remove.path]: [Remove.responseSerialize({ event: { case: 'untagged', value: name } })],
  [Load.path]: [Load.responseSerialize({ event: { case: 'image', value: { id, names: [name] } } })],
  [Save.path]: [Save.responseSerialize({ event: { case: 'log', value: 'saved' } })],
  [Pull.path]: [Pull.responseSerialize({})],
  [Push.path]: [Push.responseSerialize({})],
}
