import { chownSync, copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { createRightsBench, type RightsBench, type TestUser, userCall } from '../support/rights-bench.js'

/** Images, names, builds, caches and privileges of one user against another. */

const isRoot = process.getuid?.() === 0
const invalidArgument = 3
const permissionDenied = 7
const denied = /may not|belongs to uid/

describe.skipIf(!isRoot)('what belongs to one member of the group', () => {
  let rights: RightsBench
  let alice: TestUser
  let bob: TestUser
  let aliceImage = ''

  const idOf = async (name: string): Promise<string | undefined> =>
    (await rights.bench.images()).find(({ names }) => names.includes(name))?.id

  beforeAll(async () => {
    rights = await createRightsBench()
    alice = rights.alice
    bob = rights.bob
    const context = rights.context(alice, 'FROM base:1\nRUN echo alice > /whose\n')
    await rights.accepted(alice, 'ctr-img', 'build', '-t', 'alice/app:1', context)
    aliceImage = (await idOf('alice/app:1')) ?? ''
    expect(aliceImage).toMatch(/^[0-9a-f]{64}$/)
  })
  afterEach(async () => {
    expect(await idOf('alice/app:1')).toBe(aliceImage)
    await rights.expectUnharmed()
  })
  afterAll(() => rights?.[Symbol.asyncDispose]())

  test('is seen, saved and built on by others', async () => {
    expect(await rights.accepted(bob, 'ctr-img', 'images')).toContain('alice/app')
    const context = rights.context(bob, 'FROM alice/app:1\nRUN cat /whose\n')
    expect(await rights.accepted(bob, 'ctr-img', 'build', '-t', 'bob/app:1', context)).toContain('alice')
    await rights.accepted(bob, 'ctr-img', 'rm', 'bob/app:1')
  })

  test('is removed by none of them, by name, ID, prefix or all', async () => {
    for (const reference of ['alice/app:1', aliceImage, aliceImage.slice(0, 12), 'base:1']) {
      await rights.refused(bob, denied, 'ctr-img', 'rm', reference)
      const end = await rights.call(bob, controlService.Remove, { imageID: [reference] })
      expect(end.code).toBe(permissionDenied)
    }
    await rights.accepted(alice, 'ctr-img', 'build', rights.context(alice, 'FROM base:1\nLABEL unnamed=1\n'))
    const before = (await rights.bench.images()).length
    await rights.client(bob, ['ctr-img', 'rm', '-p'])
    await rights.client(bob, ['ctr-img', 'rm', '-a'])
    for (const flags of [{ all: true }, { prune: true }]) {
      await rights.call(bob, controlService.Remove, flags)
    }
    expect(await rights.bench.images()).toHaveLength(before)
    await rights.accepted(alice, 'ctr-img', 'rm', '-p')
  })

  test('keeps its name against tag, build, load and import', async () => {
    await rights.refused(bob, denied, 'ctr-img', 'tag', 'base:1', 'alice/app:1')
    const context = rights.context(bob, 'FROM base:1\nRUN echo bob > /whose\n')
    await rights.refused(bob, denied, 'ctr-img', 'build', '-t', 'alice/app:1', context)
    const output = join(bob.home, 'taken.tar')
    const built = await rights.control(bob, {
      ...{ contextDir: context, fileContent: 'FROM base:1\nLABEL x=y\n' },
      output: `docker-archive:${output}:alice/app:1`,
    })
    expect(built.code).toBe(permissionDenied)
    expect(existsSync(output)).toBe(false)
    const tar = join(bob.home, 'root.tar')
    copyFileSync(rights.bench.baseTar, tar)
    chownSync(tar, bob.uid, bob.gid)
    await rights.refused(bob, denied, 'ctr-img', 'import', tar, 'alice/app:1')
    // An archive of another image under her name, made where the name is free to take.
    const own = join(bob.home, 'own.tar')
    await rights.accepted(bob, 'ctr-img', 'build', '-t', 'mllry/app:1', context)
    await rights.accepted(bob, 'ctr-img', 'save', 'mllry/app:1', '-o', own)
    const forged = readFileSync(own, 'latin1').replaceAll('mllry/app:1', 'alice/app:1')
    expect(forged).toContain('alice/app:1')
    writeFileSync(own, forged, 'latin1')
    const end = await rights.call(bob, controlService.Load, { path: own })
    expect(end.code).not.toBe(0)
    await rights.accepted(bob, 'ctr-img', 'rm', 'mllry/app:1')
  })

  test('and what two of them stored stays for the second when the first removes it', async () => {
    const saved = join(alice.home, 'shared.tar')
    const context = rights.context(alice, 'FROM base:1\nRUN echo shared > /shared\n')
    await rights.accepted(alice, 'ctr-img', 'build', '-t', 'alice/shared:1', context)
    await rights.accepted(alice, 'ctr-img', 'save', 'alice/shared:1', '-o', saved)
    const id = (await idOf('alice/shared:1')) ?? ''
    await rights.accepted(bob, 'ctr-img', 'tag', id, 'bob/shared:1')
    await rights.accepted(alice, 'ctr-img', 'rm', id)
    expect(await idOf('alice/shared:1')).toBe(undefined)
    expect(await idOf('bob/shared:1')).toBe(id)
    // Loading what is there already takes no name from its holder.
    await rights.accepted(alice, 'ctr-img', 'load', '-i', saved)
    await rights.accepted(bob, 'ctr-img', 'rm', 'bob/shared:1')
    expect(await idOf('alice/shared:1')).toBe(id)
    await rights.accepted(alice, 'ctr-img', 'rm', 'alice/shared:1')
    expect((await rights.bench.images()).map((image) => image.id)).not.toContain(id)
  })

  test('a build is neither seen, watched nor cancelled by another user', async () => {
    const buildID = rights.fresh('private')
    const context = rights.context(alice, 'FROM base:1\n')
    const running = rights.control(alice, {
      ...{ buildID, contextDir: context, fileContent: 'FROM base:1\nRUN sleep 4; echo of-alice\n' },
    })
    await sleep(1500)
    const [status, listed, cancelled, again] = await rights.calls(bob, [
      userCall(controlService.Status, [{ buildID }], { patience: 1000 }),
      userCall(builderService.ListBuilds, [{}]),
      userCall(builderService.CancelBuild, [{ id: buildID }]),
      userCall(builderService.CancelBuild, [{ id: buildID }], { metadata: { uid: '0', 'x-uid': '12345' } }),
    ])
    expect(status).toMatchObject({ code: 4, responses: [] })
    expect(listed).toMatchObject({ code: 0, responses: [''] })
    for (const end of [cancelled, again]) expect(end).toMatchObject({ code: invalidArgument })
    expect(await running).toMatchObject({ code: 0, log: expect.stringContaining('of-alice') })
  })

  test('prune takes from the cache what is his who asks, and root takes all', async () => {
    const file = (who: string) =>
      [
        `FROM base:1 AS work\nRUN --mount=type=cache,id=mount-of-${who},target=/c echo x > /c/x; echo ${who} > /${who}`,
        `FROM base:1\nCOPY --from=work /${who} /\n`,
      ].join('\n')
    for (const user of [alice, bob]) {
      const context = rights.context(user, file(user === alice ? 'alice' : 'bob'))
      await rights.accepted(user, 'ctr-img', 'build', context)
    }
    const pruned = (user: TestUser, ...flags: readonly string[]) =>
      rights.accepted(user, 'ctr-img', 'prune', ...flags)
    const ofAlice = await pruned(alice, '--all', '--dry-run')
    expect(ofAlice).toMatch(/^Would remove layer [0-9a-f]{32}: /m)
    expect(ofAlice).toMatch(/^Would remove cache mount mount-of-alice: /m)
    expect(ofAlice).not.toContain('mount-of-bob')
    expect((await pruned(alice, '--all')).replaceAll('Removed', 'Would remove')).toContain('mount-of-alice')
    expect(await pruned(alice, '--all')).toBe('Total freed: 0 B\n')
    const ofBob = await pruned(bob, '--all', '--dry-run')
    expect(ofBob).toMatch(/^Would remove cache mount mount-of-bob: /m)
    const [layer = ''] = /layer [0-9a-f]{32}/.exec(ofBob) ?? []
    expect(ofAlice).not.toContain(layer)
    const ofRoot = await rights.bench.image('prune', '--all')
    expect(ofRoot).toContain(`Removed ${layer}`)
    expect(ofRoot).toContain('Removed cache mount mount-of-bob')
  })

  test('caches and cache mounts are apart', async () => {
    const file = [
      'FROM base:1',
      'RUN --mount=type=cache,id=shared,target=/c cat /c/by 2>/dev/null; echo $WHO > /c/by; cat /proc/sys/kernel/random/uuid > /u',
      'RUN cat /u',
    ].join('\n')
    const uuidOf = async (user: TestUser): Promise<string> => {
      const log = await rights.accepted(user, 'ctr-img', 'build', rights.context(user, file))
      return /[0-9a-f]{8}-[0-9a-f-]{27}/.exec(log)?.[0] ?? ''
    }
    const logs = await Promise.all([uuidOf(alice), uuidOf(bob)])
    expect(logs[0]).not.toBe(logs[1])
    const poison = 'FROM base:1\nRUN --mount=type=cache,id=poison,target=/c echo poison-of-alice > /c/f\n'
    await rights.accepted(alice, 'ctr-img', 'build', rights.context(alice, poison))
    const look = 'FROM base:1\nRUN --mount=type=cache,id=poison,target=/c cat /c/* || echo nothing\n'
    const seen = await rights.accepted(bob, 'ctr-img', 'build', rights.context(bob, look))
    expect(seen).not.toContain('poison-of-alice')
    const own = await rights.accepted(alice, 'ctr-img', 'build', rights.context(alice, look))
    expect(own).toContain('poison-of-alice')
  })

  test('privileges are for root, and for whom the configuration names', async () => {
    const context = rights.context(alice, 'FROM base:1\nRUN true\n')
    const file = 'FROM base:1\nRUN --security=insecure true\n'
    const insecure = rights.context(alice, file)
    const forbidden = /not allowed for/
    await rights.refused(alice, forbidden, 'ctr-img', 'build', '--cap-add', 'CAP_SYS_ADMIN', context)
    await rights.refused(alice, forbidden, 'ctr-img', 'build', '--isolation', 'chroot', context)
    await rights.refused(alice, forbidden, 'ctr-img', 'build', insecure)
    for (const request of [{ capAddList: ['CAP_SYS_ADMIN'] }, { capAddList: ['CAP_CHOWN', 'CAP_NET_RAW'] }]) {
      const end = await rights.control(alice, {
        ...request,
        contextDir: context,
        fileContent: 'FROM base:1\n',
      })
      expect(end.code).toBe(permissionDenied)
    }
    for (const name of ['ALL', 'CAP_ALL', 'cap_sys_admin', '', '*', 'CAP_SYS_ADMIN\0']) {
      const end = await rights.control(alice, {
        ...{ capAddList: [name], contextDir: context, fileContent: 'FROM base:1\n' },
      })
      expect(end.code).toBe(invalidArgument)
    }
    await rights.bench.image('build', '--cap-add', 'CAP_SYS_ADMIN', '--no-cache', rights.bench.context(file))
  })

  test('state and socket are open to nobody else (S60)', () => {
    const { daemon } = rights.bench
    for (const path of [daemon.data, daemon.run]) expect(statSync(path).mode & 0o777).toBe(0o700)
    expect(statSync(daemon.socket).mode & 0o777).toBe(0o660)
  })
})

describe.skipIf(!isRoot)('a member whom the configuration names', () => {
  test('may what only root may otherwise', async () => {
    await using rights = await createRightsBench('[privileged]\nuids = [12345]\n')
    const { alice, bob } = rights
    const file = 'FROM base:1\nRUN --security=insecure grep CapEff /proc/self/status\n'
    const args = (user: TestUser) => [
      'ctr-img',
      'build',
      '--cap-add',
      'CAP_SYS_ADMIN',
      rights.context(user, file),
    ]
    expect(await rights.accepted(alice, ...args(alice))).toMatch(/CapEff/)
    await rights.refused(bob, /not allowed for/, ...args(bob))
    await rights.expectUnharmed()
  })
})
