import type { Random } from './random-choices.js'

/** A Dockerfile of several stages that changes at random. */
export interface RandomDockerfile {
  text(): string
  /** Changes one thing; says what. */
  edit(): string
  /** Takes back what `edit` did since the last `keep`; begins anew when there was none. */
  restore(): void
  keep(): void
}

interface Stage {
  readonly base: string
  readonly lines: readonly string[]
}

const sources = [
  ...[
    'src/',
    'src',
    'conf/*.txt',
    'src/*.c',
    '.',
    'src/sub',
    's*c/',
    'data/sub',
    'conf/?eep.txt',
    'src/sub/../keep.c',
  ],
  ...['conf/ src/keep.c', '["src/sub/", "conf"]', 'src/./sub/*', 'data*'],
]
const targets = ['/app/', '/app/sub/', './', '/opt/x/', '/etc/conf.d/', '/app/link/', '/srv/', '/opt/$LEVEL/']
const flags = [
  ...[
    '',
    '',
    '',
    '',
    '--chmod=640 ',
    '--chmod=u+x,go-w ',
    '--chown=1000:100 ',
    '--chown=app ',
    '--chown=app:0 --chmod=755 ',
  ],
  ...[
    '--exclude=*.txt ',
    '--exclude=**/*.c --exclude=**/deep ',
    '--parents ',
    '--link ',
    '--link --chown=3 ',
  ],
]
const files = '-type f -exec sha256sum {} + | sort'
const facts = "-exec stat -c '%n %f %u %g %s' {} + | sort"

/** `bases` are images that a stage may start from; `id` is of no other project. */
export function createRandomDockerfile(
  random: Random,
  bases: readonly string[],
  id: string,
): RandomDockerfile {
  let serial = 0
  const fresh = (): string => `${id}-${serial++}`

  function copy(): string {
    return `COPY ${random.pick(flags)}${jsonLast(random.pick(sources), random.pick(targets))}`
  }
  function copyFrom(stage: number): string {
    const from = stage > 0 && random.next(5) > 0 ? `s${random.next(stage)}` : random.pick(bases)
    const paths = from.startsWith('s')
      ? ['/app', '/app/*.txt', '/etc/passwd', '/made*', '/opt/', '/app/sub/', '/app/link']
      : ['/etc/passwd', '/etc', '/etc/gro*']
    return `COPY --from=${from} ${random.pick(flags)}${random.pick(paths)} ${random.pick(targets)}`
  }
  function run(stage: number): string {
    const out = `/made-${fresh()}`
    const earlier = stage > 0 ? `from=s${random.next(stage)},` : ''
    return random.pick([
      `RUN find /app /opt /srv ${files} > ${out}; true`,
      `RUN cd / && find app opt srv etc ${facts} > ${out}; true`,
      `RUN mkdir -p /opt/x && cp -a /app /opt/x/copy; true`,
      `RUN rm -rf /app/sub /opt/x/copy; true`,
      `RUN rm -rf /app && mkdir -p /app && echo ${out} > /app/new`,
      `RUN mkdir -p /app /opt/x && rm -rf /app/link && ln -s /opt/x /app/link`,
      `RUN mkdir -p /app && echo "$VERSION-$LEVEL" > /app/version && ln -f /app/version /app/version-link`,
      `RUN chmod -R go-rwx /app; true`,
      `RUN chown -R 1000:1000 /opt /app; true`,
      `RUN mv /app/keep.txt /app/moved.txt; touch /app/keep.c; true`,
      `RUN --mount=target=/context cd /context && find . ${files} > ${out}`,
      `RUN --mount=target=/context,source=src cd /context && find . ${facts} > ${out}`,
      `RUN --mount=target=/context,source=conf,rw echo x > /context/new && find /context | sort > ${out}`,
      `RUN --mount=type=bind,${earlier}source=/,target=/from find /from/app /from/opt ${files} > ${out}; true`,
      `RUN --mount=type=cache,id=${id},target=/cache,sharing=${random.pick(['shared', 'locked'])} echo run >> /cache/log && echo "$VERSION" > ${out}`,
      `RUN --mount=type=cache,target=/cache/${fresh()} --mount=type=tmpfs,target=/t ls -a /t > ${out}`,
      `RUN env | grep -E '^(LEVEL|VERSION|EXTRA)=' | sort > ${out}; true`,
      `RUN true`,
      `RUN <<END\necho "$EXTRA" > ${out}\nhead -c ${random.next(9000)} /dev/zero | tr '\\\\0' x >> ${out}\nEND`,
      `USER 1000:100\nRUN id -u > /tmp/made-${fresh()}\nWORKDIR /tmp/home\nUSER 0`,
    ])
  }
  function other(): string {
    return random.pick([
      `ARG VERSION=${random.next(3)}`,
      'ARG VERSION',
      'ENV LEVEL=$VERSION',
      `ENV LEVEL=${random.next(4)}`,
      `ENV EXTRA="${random.next(5)} of five"`,
      'WORKDIR /work',
      'WORKDIR inner',
      'WORKDIR /app/$LEVEL',
      `COPY <<END /made-${fresh()}\n${random.next(9)} $LEVEL\nEND`,
      'ADD data.tar /unpacked/',
      `ADD ${random.pick(flags)}src/keep.c /srv/`,
      `LABEL kind=${random.next(9)}`,
      `CMD ["${random.next(9)}"]`,
      `EXPOSE ${1 + random.next(99)}`,
      'VOLUME /volume',
      'SHELL ["/bin/sh", "-ec"]',
    ])
  }
  function line(stage: number): string {
    const kind = random.next(10)
    if (kind < 3) return copy()
    if (kind < 5) return copyFrom(stage)
    return kind < 8 ? run(stage) : other()
  }

  function begin(): readonly Stage[] {
    const count = 2 + random.next(3)
    return Array.from({ length: count }, (_, i) => {
      const base = i > 0 && random.next(4) === 0 ? `s${random.next(i)}` : random.pick(bases)
      const lines = Array.from({ length: 2 + random.next(4) }, () => line(i))
      if (i < count - 1) return { base, lines }
      // Needs most of the others.
      const taken = Array.from({ length: i }, (_, from) => `COPY --from=s${from} /etc /opt/ /all/s${from}/`)
      return { base, lines: ['COPY src /app/', ...lines, ...taken] }
    })
  }
  let stages = begin()
  let good: readonly Stage[] | undefined

  function change(at: number, lines: readonly string[]): void {
    stages = stages.map((stage, i) => (i === at ? { ...stage, lines } : stage))
  }

  return {
    text() {
      const parts = stages.map(({ base, lines }, i) => [`FROM ${base} AS s${i}`, ...lines].join('\n'))
      return `ARG VERSION=0\n${parts.join('\n')}\n`
    },
    edit() {
      const at = random.next(stages.length)
      const lines = stages[at]?.lines ?? []
      const place = random.next(lines.length + 1)
      const kind = random.next(8)
      if (kind < 3) {
        const added = line(at)
        change(at, lines.toSpliced(place, 0, added))
        return `adds ${added} to s${at}`
      }
      if (kind < 5) {
        const changed = line(at)
        change(at, lines.toSpliced(place, 1, changed))
        return `replaces ${lines[place]} by ${changed} in s${at}`
      }
      if (kind < 6 && lines.length > 1) {
        change(at, lines.toSpliced(place, 1))
        return `removes ${lines[place]} from s${at}`
      }
      if (kind < 7 && place > 0 && place < lines.length) {
        change(at, [
          ...lines.slice(0, place - 1),
          ...lines.slice(place - 1, place + 1).reverse(),
          ...lines.slice(place + 1),
        ])
        return `swaps ${lines[place]} with the line before in s${at}`
      }
      const base = random.pick(bases)
      stages = stages.map((stage, i) => (i === at ? { ...stage, base } : stage))
      return `bases s${at} on ${base}`
    },
    restore() {
      stages = good ?? begin()
    },
    keep() {
      good = stages
    },
  }
}

/** Sources in brackets take their destination in there. */
function jsonLast(source: string, target: string): string {
  return source.startsWith('[') ? `${source.slice(0, -1)}, "${target}"]` : `${source} ${target}`
}
