import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../ports/logger.js'
import type { ListEntry, ManifestList, ManifestListStore } from '../ports/manifest-lists.js'
import type { Database } from './database.js'

interface ListRow {
  readonly name: string
  readonly id: string
  readonly owner: number
  readonly created_at: number
  readonly document: string
}

/** What of a list has no column of its own. */
type StoredDocument = Pick<ManifestList, 'format' | 'annotations' | 'entries'>

const columns = 'SELECT name, id, owner, created_at, document FROM manifest_lists'
const digest = /^sha256:[0-9a-f]{64}$/

export function createManifestListStore({
  database,
  log,
}: {
  readonly database: Database
  readonly log: Logger
}): ManifestListStore {
  return {
    async put({ name, id, owner, createdAt, format, annotations, entries }, mode) {
      const stored: StoredDocument = { format, annotations, entries }
      const images = entries.flatMap(({ origin }) => (origin.kind === 'local' ? [origin.imageId] : []))
      const document = JSON.stringify(stored)
      await database.write('putList', { name, id, owner, createdAt, document, images, mode })
    },

    async get(name) {
      const row = database.read.get<ListRow>(`${columns} WHERE name = ?`, name)
      return row === undefined ? undefined : decode(row)
    },

    async all() {
      return database.read.all<ListRow>(`${columns} ORDER BY name`).flatMap((row) => {
        try {
          return [decode(row)]
        } catch (error) {
          // Nobody's listing fails for it; who asks for this one is told.
          log.error('lists.unreadable', { list: row.name, error: String(error) })
          return []
        }
      })
    },

    remove: (name, by) => database.write('removeList', { name, by }),
  }
}

function decode({ name, id, owner, created_at: createdAt, document }: ListRow): ManifestList {
  const stored = parse(document)
  if (stored === undefined || !stored.entries.every(isEntry)) {
    throw new BuilderError(
      'ISB_IMAGE_DAMAGED',
      `what is stored of the manifest list "${name}" is unreadable`,
      {
        hint: 'Create it again with --amend.',
      },
    )
  }
  return { name, id, owner, createdAt, ...stored }
}

function parse(document: string): StoredDocument | undefined {
  try {
    const stored = JSON.parse(document) as StoredDocument
    return Array.isArray(stored.entries) ? stored : undefined
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return undefined
    throw error
  }
}

/** What would be sent to a registry is checked, whatever happened to the database. */
function isEntry(entry: ListEntry): boolean {
  const { kind } = entry.origin
  return (
    digest.test(entry.digest) && Number.isSafeInteger(entry.size) && (kind === 'remote' || kind === 'local')
  )
}
