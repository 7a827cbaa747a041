import { parentPort, workerData } from 'node:worker_threads'
import { createRegistryHttp } from '../registry/http/registry-http.js'
import type { TransferReply, TransferRequest, TransferThreadData } from './transfer-messages.js'
import { createTransferService } from './transfer-service.js'

/** The transfer thread: everything that is said to registries, and every byte of a blob that comes or goes. */

const port = parentPort
if (port === null) throw new Error('this is the entry point of a worker thread')
const post = (reply: TransferReply, transfer: readonly ArrayBuffer[] = []): void =>
  port.postMessage(reply, transfer)
const { http } = workerData as TransferThreadData
const service = createTransferService(
  (log) => createRegistryHttp({ ...http, log }),
  post,
  // With its port closed nothing keeps the thread.
  () => port.close(),
)
port.on('message', (request: TransferRequest) => service.receive(request))
post({ kind: 'ready' })
