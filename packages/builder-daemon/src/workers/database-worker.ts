import { parentPort, workerData } from 'node:worker_threads'
import { runStoreThread } from '../storage/database-worker.js'
import type { StoreThreadData } from '../storage/thread-messages.js'

if (parentPort === null) throw new Error('this is the entry of a worker thread')
runStoreThread(parentPort, workerData as StoreThreadData)
