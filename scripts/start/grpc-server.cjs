'use strict'
// What a server needs of the gRPC library, whose main module loads all that only clients need, too. The daemon's bundle
// has this in its place.
const { Metadata } = require('@grpc/grpc-js/build/src/metadata')
const { Server } = require('@grpc/grpc-js/build/src/server')
const { ServerCredentials } = require('@grpc/grpc-js/build/src/server-credentials')
const { ServerInterceptingCall } = require('@grpc/grpc-js/build/src/server-interceptors')
const { Status } = require('@grpc/grpc-js/build/src/constants')

module.exports = { Metadata, Server, ServerCredentials, ServerInterceptingCall, status: Status }
