import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface ConnectProxy extends AsyncDisposable {
  readonly url: string
  /** `host:port` of everything that was asked for. */
  readonly targets: string[]
  /** Ports of this machine by `host:port`; what is not here does not exist. */
  readonly routes: Map<string, number>
  /** Sent instead of a tunnel. */
  refusal: string | undefined
}

/** An HTTP proxy on loopback, in a world of names that the test makes up. */
export async function startConnectProxy(): Promise<ConnectProxy> {
  const targets: string[] = []
  const routes = new Map<string, number>()
  const sockets = new Set<Socket>()
  const keep = (socket: Socket): void => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy())
    socket.once('close', () => sockets.delete(socket))
  }
  const server = createServer((socket) => {
    keep(socket)
    socket.once('data', (head) => {
      const target = /^CONNECT (\S+) HTTP/.exec(head.toString('latin1'))?.[1] ?? head.toString('latin1')
      targets.push(target)
      const port = routes.get(target)
      if (proxy.refusal !== undefined) socket.end(proxy.refusal)
      else if (port === undefined) socket.end('HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n')
      else {
        const inner = connect(port, '127.0.0.1', () => {
          socket.write('HTTP/1.1 200 OK\r\n\r\n')
          socket.pipe(inner).pipe(socket)
        })
        keep(inner)
        socket.once('close', () => inner.destroy())
        inner.once('close', () => socket.destroy())
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: ConnectProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ...{ targets, routes, refusal: undefined },
    async [Symbol.asyncDispose]() {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
  return proxy
}
