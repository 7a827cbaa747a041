import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Decoded } from '@isula-build/shared/rpc/codec.js'
import type * as wire from '@isula-build/shared/rpc/control.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'
import type { CallContext, Handlers } from './adapter.js'
import { transferredBy } from './audit-facts.js'
import { knowsNoLogins } from './credential-questions.js'
import type { BuilderCore, TransferEvent } from './handlers.js'
import { checkChoice, invalid, orUndefined } from './request-checks.js'
import { unspecifiedTransfer } from './transfer-options.js'

/** Characters of a user name or password: the original's limit. */
const maxLogin = 128

/** Its client asks for a password when it reads this. */
const storedLoginFails = 'Failed to authenticate existing credentials, try to use auth directly'

type RegistryMethods =
  | 'Login'
  | 'Logout'
  | 'Pull'
  | 'Push'
  | 'ManifestCreate'
  | 'ManifestAnnotate'
  | 'ManifestInspect'
  | 'ManifestPush'

/** What of the original's service speaks to registries. */
export function controlRegistries(
  core: BuilderCore,
): Pick<Handlers<typeof wire.controlService>, RegistryMethods> {
  async function checkExperimental(context: CallContext): Promise<void> {
    if ((await core.info(context.caller)).experimental) return
    throw new BuilderError('ISB_UNSUPPORTED', 'please enable experimental to use manifest feature', {
      hint: 'Set `experimental = true` in configuration.toml and restart the daemon.',
    })
  }

  return {
    async Login(request, { caller, signal }) {
      const { server, credentials } = loginOf(request, core.decrypt)
      const login = { server, credentials, transfer: unspecifiedTransfer }
      if (credentials !== undefined) {
        await core.login(login, caller, signal)
        return { content: 'Login Succeeded' }
      }
      await core.login(login, caller, signal).catch((error: unknown) => {
        throw withoutStoredLogin(error)
      })
      return { content: 'Login Succeed with AuthFile' }
    },

    async Logout({ server, all }, { caller }) {
      if (!all && server === '') throw invalid('empty server address')
      await core.logout(all ? { kind: 'all' } : { kind: 'server', server }, caller)
      return { result: all ? 'Removed authentications' : `Removed authentication for ${server}` }
    },

    async *Pull({ imageName }, { caller, signal, note }) {
      if (imageName === '') throw invalid('no image to pull')
      const request = {
        reference: imageName,
        platforms: [],
        // The original is content with what is here, also when no registry can be reached.
        policy: 'newer',
        transfer: unspecifiedTransfer,
      } as const
      const events = core.pull(request, knowsNoLogins, caller, signal)
      for await (const response of linesOf(events, note)) yield { response }
    },

    async *Push({ imageName, format }, { caller, signal, note }) {
      if (imageName === '') throw invalid('no image to push')
      const request = {
        image: imageName,
        destination: undefined,
        push: {
          format: checkChoice(format, 'image format', ['docker', 'oci']),
          compression: undefined,
          level: undefined,
        },
        transfer: unspecifiedTransfer,
      } as const
      const events = core.push(request, knowsNoLogins, caller, signal)
      for await (const response of linesOf(events, note)) yield { response }
    },

    async ManifestCreate({ manifestList, manifests }, context) {
      await checkExperimental(context)
      if (manifestList === '') throw invalid('please specify a name to manifest list')
      const request = {
        name: manifestList,
        images: manifests,
        format: 'docker',
        all: false,
        amend: false,
        transfer: unspecifiedTransfer,
      } as const
      const imageID = await core.createList(request, knowsNoLogins, context.caller, context.signal)
      context.note({ results: [imageID] })
      return { imageID }
    },

    async ManifestAnnotate(request, context) {
      await checkExperimental(context)
      const { manifestList: list, manifest: image, arch, os, osFeatures, variant } = request
      if (list === '' || image === '') throw invalid('please specify the manifest list and the image name')
      const annotation = {
        list,
        image,
        os: orUndefined(os),
        architecture: orUndefined(arch),
        variant: orUndefined(variant),
        osVersion: undefined,
        osFeatures,
        annotations: {},
        transfer: unspecifiedTransfer,
      }
      await core.annotateList(annotation, knowsNoLogins, context.caller, context.signal)
      return {}
    },

    async ManifestInspect({ manifestList }, context) {
      await checkExperimental(context)
      if (manifestList === '') throw invalid('please specify the manifest list name')
      return { data: await core.inspectList(manifestList, context.caller) }
    },

    async *ManifestPush({ manifestList: list, dest }, context) {
      await checkExperimental(context)
      if (list === '' || dest === '') {
        throw invalid('please specify the manifest list name and destination repository')
      }
      const request = {
        list,
        destination: dest,
        format: 'docker',
        all: true,
        purge: false,
        transfer: unspecifiedTransfer,
      } as const
      const events = core.pushList(request, knowsNoLogins, context.caller, context.signal)
      for await (const result of linesOf(events, context.note)) yield { result }
    },
  }
}

function loginOf(
  { server, username, password }: Decoded<typeof wire.LoginRequest>,
  decrypt: (hex: string) => string,
) {
  if (server === '') throw invalid('empty server address')
  if (username === '' && password === '') return { server, credentials: undefined }
  if (username === '' || password === '') throw invalid('empty auth info')
  const credentials = { username, password: decrypt(password) }
  if (credentials.password === '') throw invalid('empty auth info')
  if (username.length > maxLogin || credentials.password.length > maxLogin) {
    throw invalid('length of input exceeded', {
      hint: `User names and passwords have up to ${maxLogin} characters.`,
    })
  }
  return { server, credentials }
}

function withoutStoredLogin(error: unknown): unknown {
  if (!isBuilderError(error, 'ISB_REGISTRY_DENIED')) return error
  return new BuilderError(error.code, `${storedLoginFails}: ${error.message}`, {
    ...error.details,
    cause: error,
  })
}

async function* linesOf(
  events: AsyncIterable<TransferEvent>,
  note: CallContext['note'],
): AsyncGenerator<string, void, undefined> {
  for await (const event of events) {
    note({ results: transferredBy(event) })
    if (event.kind === 'log') yield `${displayLine(event.line)}\n`
  }
}
