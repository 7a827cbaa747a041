import { spawn } from 'node:child_process'
import { once } from 'node:events'

/** What a service manager hears on a datagram socket, and whether `probe` took connections at that moment. */
export interface NotifyReceiver extends AsyncDisposable {
  /** The next datagram, e.g. `READY=1 answers`. */
  next(): Promise<string>
}

const program = `
import socket, sys
address, probe = sys.argv[1], sys.argv[2]
inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
inbox.bind("\\0" + address[1:] if address.startswith("@") else address)
print("bound", flush=True)
while True:
    message = inbox.recv(4096).decode()
    outgoing = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        outgoing.connect(probe)
        state = "answers"
    except OSError:
        state = "silent"
    outgoing.close()
    print(message.replace("\\n", " "), state, flush=True)
`

/** Node.js has no datagram sockets in the file system; python3 does. A leading @ is an abstract address. */
export async function receiveNotifications(address: string, probe: string): Promise<NotifyReceiver> {
  const child = spawn('python3', ['-c', program, address, probe], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  const chunks = child.stdout.setEncoding('utf8')[Symbol.asyncIterator]() as AsyncIterator<string>
  let text = ''
  const next = async (): Promise<string> => {
    while (!text.includes('\n')) {
      const { value, done } = await chunks.next()
      if (done === true) throw new Error('the receiver ended')
      text += value
    }
    const line = text.slice(0, text.indexOf('\n'))
    text = text.slice(line.length + 1)
    return line
  }
  if ((await next()) !== 'bound') throw new Error('the receiver did not bind its address')
  return {
    next,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    },
  }
}
