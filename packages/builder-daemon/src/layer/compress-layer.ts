import { createHash } from 'node:crypto'
import { closeSync, openSync, writeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestFromHex } from '@isula-build/shared/oci/digest.js'
import type {
  CompressLayerParams,
  CompressLayerResult,
  HelpCompressionParams,
  HelpCompressionResult,
  WriteFileParams,
  WriteFileResult,
} from '../ports/layer-worker.js'
import { writeToPipe } from '../system/blob-pipe.js'
import { hasErrno } from '../system/system-error.js'
import { type BlockSink, fillRing, headBytes, helpWithRing, ringBytes } from './compress/block-ring.js'
import { type BlockEngine, blockSize, type StreamEngine } from './compress/compressor.js'
import { chooseEngine } from './compress/engines.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { writeLayerTo } from './write-layer.js'

/**
 * Job `compressLayer`: one pass from the files of the layer to the compressed file, all hashes on the way. Fails with
 * ISB_IMAGE_DAMAGED, but only at its end, ISB_NO_SPACE, ISB_ARGUMENT_INVALID and ISB_UNSUPPORTED; what the file holds
 * is then of no use.
 */
export function compressLayerJob(
  params: CompressLayerParams,
  control: JobControl = uncontrolled,
): CompressLayerResult {
  const { engine, level, recipe } = chooseEngine(params.compression, params.level)
  const file =
    params.pipe === undefined
      ? createHashedFile(params.file)
      : createHashedPipe(params.pipe, params.file, control)
  try {
    const sink =
      engine.kind === 'stream'
        ? streamSink(engine, level, file.write)
        : blockSink(engine, level, params.shared, file.write, control)
    try {
      const sealed = writeLayerTo(params, sink.append, control)
      sink.finish()
      return { ...sealed, ...file.finish(), recipe, isBehind: file.isBehind() }
    } finally {
      sink.close()
    }
  } finally {
    file.close()
  }
}

/** Job `helpCompression`. */
export function helpCompressionJob(
  { compression, level, shared }: HelpCompressionParams,
  control: JobControl = uncontrolled,
): HelpCompressionResult {
  const chosen = chooseEngine(compression, level)
  if (chosen.engine.kind === 'stream') return { blocks: 0 }
  const compressor = chosen.engine.open(chosen.level)
  try {
    return { blocks: helpWithRing(shared, compressor, control) }
  } finally {
    compressor.close()
  }
}

function blockSink(
  engine: BlockEngine,
  level: number,
  shared: SharedArrayBuffer | undefined,
  output: (bytes: Buffer) => void,
  control: JobControl,
): BlockSink {
  const compressor = engine.open(level)
  const memory = shared ?? ownRing()
  const ring = fillRing(memory, compressor, output, control)
  return {
    append: ring.append,
    finish: ring.finish,
    close() {
      ring.close()
      compressor.close()
    },
  }
}

let own: SharedArrayBuffer | undefined

/** For a thread without help, used again for every layer. */
function ownRing(): SharedArrayBuffer {
  own ??= new SharedArrayBuffer(ringBytes(1))
  new Uint8Array(own, 0, headBytes).fill(0)
  return own
}

/** What comes is cut into equal pieces first, so that what goes out cannot depend on how it came. */
function streamSink(engine: StreamEngine, level: number, output: (bytes: Buffer) => void): BlockSink {
  const compressor = engine.open(level, output)
  const buffer = Buffer.allocUnsafeSlow(blockSize)
  let used = 0
  return {
    append(bytes) {
      for (let at = 0; at < bytes.length; ) {
        if (used === buffer.length) {
          compressor.write(buffer, false)
          used = 0
        }
        const count = Math.min(bytes.length - at, buffer.length - used)
        bytes.copy(buffer, used, at, at + count)
        used += count
        at += count
      }
    },
    finish: () => compressor.write(buffer.subarray(0, used), true),
    close: compressor.close,
  }
}

/** Job `writeFile`: small content of the main thread's into a file. */
export function writeFileJob({ file: path, content }: WriteFileParams): WriteFileResult {
  const file = createHashedFile(path)
  try {
    file.write(Buffer.from(content.buffer, content.byteOffset, content.byteLength))
    return file.finish()
  } finally {
    file.close()
  }
}

interface HashedOutput {
  write(bytes: Buffer): void
  finish(): WriteFileResult
  close(): void
  isBehind(): boolean
}

function createHashedFile(path: string): HashedOutput {
  const fd = openSync(path, 'w', 0o600)
  return hashed(
    (bytes) => {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
    },
    { finish: () => undefined, close: () => closeSync(fd), isBehind: () => false },
  )
}

function createHashedPipe(memory: SharedArrayBuffer, path: string, control: JobControl): HashedOutput {
  const pipe = writeToPipe(memory, path, control.check)
  return hashed(pipe.write, {
    finish: ({ digest }) => pipe.finish(digest),
    close: pipe.close,
    isBehind: () => pipe.usesFile,
  })
}

function hashed(
  write: (bytes: Buffer) => void,
  {
    finish,
    ...rest
  }: Pick<HashedOutput, 'close' | 'isBehind'> & { readonly finish: (made: WriteFileResult) => void },
): HashedOutput {
  const hash = createHash('sha256')
  let size = 0
  function withRoom(work: () => void): void {
    try {
      work()
    } catch (cause) {
      if (!hasErrno(cause, 'ENOSPC') && !hasErrno(cause, 'EDQUOT')) throw cause
      throw new BuilderError('ISB_NO_SPACE', 'no space left to prepare a blob for its upload', { cause })
    }
  }
  return {
    write(bytes) {
      hash.update(bytes)
      size += bytes.length
      withRoom(() => write(bytes))
    },
    finish() {
      const made = { digest: digestFromHex(hash.digest('hex')), size }
      withRoom(() => finish(made))
      return made
    },
    ...rest,
  }
}
