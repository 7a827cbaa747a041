import type { FakeBuild } from './fake-daemon.js'
import type { Random } from './random-choices.js'

const caches = ['a', 'b', 'c']

function cacheMount(id: string, random: Random): string {
  const sharing = id === 'c' ? 'shared' : random.pick(['shared', 'locked', 'locked'])
  return `--mount=type=cache,id=${id},sharing=${sharing},target=/cache/${id}${random.next(9) === 0 ? ',ro' : ''}`
}

/** RUN with up to two cache mounts and perhaps a bind of the context. */
function run(command: string, random: Random): string {
  const mounts = caches.filter(() => random.next(4) === 0).map((id) => cacheMount(id, random))
  if (random.next(6) === 0) mounts.push('--mount=type=bind,target=/src')
  return `RUN ${[...mounts, command].join(' ')}`
}

/** A few projects, each in some versions: builds of them want many of one another's vertices. */
export function createProjects(random: Random): (name: string) => FakeBuild {
  const dockerfiles: string[] = []
  for (let project = 0; project < 2; project++) {
    const base = ['FROM scratch AS base', 'WORKDIR /w', run(`base ${project}`, random)]
    const stages = ['left', 'right'].map((stage) => [
      `FROM base AS ${stage}`,
      ...(random.next(2) === 0 ? ['COPY . /src'] : []),
      ...Array.from({ length: 1 + random.next(2) }, (_, i) => run(`${stage} ${i}`, random)),
    ])
    for (let version = 0; version < 3; version++) {
      const last = random.next(8) === 0 ? 'fail' : 'last'
      const end = [
        'FROM scratch',
        'COPY --from=left / /l',
        'COPY --from=right / /r',
        `RUN ${last} ${version}`,
      ]
      dockerfiles.push([...base, ...stages.flat(), ...end].join('\n'))
    }
  }
  return (name) => ({
    name,
    uid: random.next(4) === 0 ? 1 : 0,
    dockerfile: random.pick(dockerfiles),
    context: `directory ${random.next(3)}`,
    noCache: random.next(15) === 0,
  })
}
