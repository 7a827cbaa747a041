import type { Caller } from '../ports/caller.js'
import type { ImageStore } from '../ports/image-store.js'

/** The image store as one caller may use it: everybody reads every image, and changes what is his. */
export function ownedImages(images: ImageStore, caller: Caller): ImageStore {
  const { uid } = caller
  return {
    ...images,
    put: (image, lease) => images.put({ ...image, owner: uid }, lease),
    putAll: (several, lease) =>
      images.putAll(
        several.map((image) => ({ ...image, owner: uid })),
        lease,
      ),
    tag: (imageId, name) => images.tag(imageId, name, uid),
    untag: (name) => images.untag(name, uid),
    checkName: (imageId, name) => images.checkName(imageId, name, uid),
    remove: (imageId, _, name) => images.remove(imageId, uid, name),
  }
}
