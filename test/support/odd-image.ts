import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeBusyboxTar } from './busybox-rootfs.js'
import { runTool } from './judges.js'

/** What the image of `oddDockerfile` prints when it runs. */
export const oddGreeting = 'hi\n'

const longPath = `long/${'directory-with-a-long-name/'.repeat(6)}${'n'.repeat(120)}`

/** Path in the base image, and below /copied, with a name that no classic tar header holds. */
export const longFile = `${longPath}/file`

/** Of every kind of entry a layer has, something; \351 is no UTF-8. */
const oddities = `
  mkdir -p "$1/lower" "$1/opaque/old" "$1/dropped/deep" "$1/names" "$1/sticky" "$1/$2"
  echo kept > "$1/lower/kept"; echo gone > "$1/lower/gone"; echo old > "$1/opaque/old/file"; echo d > "$1/dropped/deep/f"
  echo latin > "$1/names/$(printf 'latin\\351')"; echo long > "$1/$2/file"; ln -s "../names" "$1/lower/link"
  echo one > "$1/lower/one"; ln "$1/lower/one" "$1/lower/two"; chmod 1777 "$1/sticky"
  cp "$1/lower/one" "$1/lower/able"; chmod 4755 "$1/lower/able"; setcap cap_net_raw+ep "$1/lower/able"
  setfattr -n user.note -v some "$1/lower/kept"; touch -d '2001-02-03 04:05:06.789' "$1/lower/kept" "$1/names"`

/** Whiteouts, opaque directories, hard links, attributes, odd owners, devices: one kind for each layer. */
export const oddDockerfile = (base: string): string => `FROM ${base}
LABEL judged=yes
RUN rm /lower/gone && rm -r /opaque /dropped && mkdir /opaque && echo new > /opaque/new && echo hi > /greeting
RUN ln /bin/busybox /bin/linked && chown 70000:80000 /lower/kept && touch /lower/able
RUN echo again > "/names/$(printf 'up\\351')" && mkfifo /fifo && mknod /null c 1 3 && chmod 600 /sticky
COPY --chown=12:34 tree /copied/
CMD ["/bin/cat", "/greeting"]
`

export interface OddImage {
  /** Archive of the base image's root file system. */
  readonly baseTar: string
  /** A context whose Dockerfile builds on `base`. */
  readonly context: string
}

/** Writes both below `directory`. */
export function makeOddImage(directory: string, base: string): OddImage {
  const context = join(directory, 'context')
  const furnish = (root: string): unknown =>
    runTool('sh', ['-ec', `mkdir -p "$1"\n${oddities}`, 'sh', root, longPath])
  furnish(join(context, 'tree'))
  writeFileSync(join(context, 'Dockerfile'), oddDockerfile(base))
  return { baseTar: makeBusyboxTar(directory, furnish), context }
}

const noteScript = 'getfattr --only-values -n user.note lower/kept || true'

/** The only fault of images that docker made: it knows no attributes of users. */
export const faultOfDocker = `${noteScript}: `

/** What is otherwise in the tree at `root` than in the image. */
export function oddTreeFaults(root: string): readonly string[] {
  const expected: readonly (readonly [script: string, output: string])[] = [
    ['ls lower', 'able\nkept\nlink\none\ntwo'],
    ['ls -A opaque', 'new'],
    ['ls -A | grep -c dropped || true', '0'],
    ['test lower/one -ef lower/two && echo same', 'same'],
    ['stat -c %h lower/one bin/linked copied/lower/two', '2\n2\n2'],
    ['stat -c "%a %u:%g" lower/able copied/lower/kept sticky', '4755 0:0\n644 12:34\n600 0:0'],
    ['stat -c "%u:%g %Y" lower/kept', '70000:80000 981173106'],
    ['getcap lower/able', 'lower/able cap_net_raw=ep'],
    [noteScript, 'some'],
    [`cat names/$(printf 'latin\\351') names/$(printf 'up\\351')`, 'latin\nagain'],
    ['stat -c "%F %t:%T" fifo null', 'fifo 0:0\ncharacter special file 1:3'],
    [`cat "${longFile}" "copied/${longFile}"`, 'long\nlong'],
  ]
  return expected.flatMap(([script, output]) => {
    const found = runTool('sh', ['-ec', `cd "$1"; ${script}`, 'sh', root]).trim()
    return found === output ? [] : [`${script}: ${found}`]
  })
}
