/** What the layers below hold matters, and they are not there yet. */
export class LowersUnknown extends Error {
  override readonly name = 'LowersUnknown'

  constructor() {
    super('the layers below matter')
  }
}
