import type { Decoded, Encodable, MessageType } from './codec.js'

type AnyMessage = MessageType<unknown, unknown>

/**
 * A method as @grpc/grpc-js takes it, for `server.addService(service, …)` and for
 * `client.makeUnaryRequest(method.path, method.requestSerialize, method.responseDeserialize, …)`.
 */
export interface Method<
  Req extends AnyMessage,
  Res extends AnyMessage,
  RS extends boolean,
  PS extends boolean,
> {
  readonly path: string
  readonly originalName: string
  readonly requestType: Req
  readonly responseType: Res
  readonly requestStream: RS
  readonly responseStream: PS
  requestSerialize(value: Encodable<Req>): Buffer
  requestDeserialize(bytes: Buffer): Decoded<Req>
  responseSerialize(value: Encodable<Res>): Buffer
  responseDeserialize(bytes: Buffer): Decoded<Res>
}

export type AnyMethod = Method<AnyMessage, AnyMessage, boolean, boolean>

/** The methods of one service, by name. */
export type Service = Readonly<Record<string, AnyMethod>>

export interface MethodMaker {
  unary<Req extends AnyMessage, Res extends AnyMessage>(
    name: string,
    request: Req,
    response: Res,
  ): Method<Req, Res, false, false>
  /** One request, a stream of responses. */
  serverStream<Req extends AnyMessage, Res extends AnyMessage>(
    name: string,
    request: Req,
    response: Res,
  ): Method<Req, Res, false, true>
  /** Streams both ways. */
  duplex<Req extends AnyMessage, Res extends AnyMessage>(
    name: string,
    request: Req,
    response: Res,
  ): Method<Req, Res, true, true>
}

/** Methods of the service with this full name. */
export function methodsOf(service: string): MethodMaker {
  return {
    unary: (name, request, response) => define(service, name, request, response, false, false),
    serverStream: (name, request, response) => define(service, name, request, response, false, true),
    duplex: (name, request, response) => define(service, name, request, response, true, true),
  }
}

function define<Req extends AnyMessage, Res extends AnyMessage, RS extends boolean, PS extends boolean>(
  service: string,
  name: string,
  requestType: Req,
  responseType: Res,
  requestStream: RS,
  responseStream: PS,
): Method<Req, Res, RS, PS> {
  return {
    path: `/${service}/${name}`,
    originalName: name,
    requestType,
    responseType,
    requestStream,
    responseStream,
    requestSerialize: (value) => requestType.encode(value),
    requestDeserialize: (bytes) => requestType.decode(bytes) as Decoded<Req>,
    responseSerialize: (value) => responseType.encode(value),
    responseDeserialize: (bytes) => responseType.decode(bytes) as Decoded<Res>,
  }
}
