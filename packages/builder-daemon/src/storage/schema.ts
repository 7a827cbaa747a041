import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Database } from 'better-sqlite3'

/**
 * The database is the only truth of the store: a directory without a row is garbage, a row without its
 * directory is damage. Columns named `*_at` are milliseconds since the epoch. An `epoch` counts daemon
 * starts, so whatever carries an older one belonged to a daemon that is gone.
 */
const version1 = `
  CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  INSERT INTO meta (key, value) VALUES ('epoch', 0);

  -- 'deleting': unreachable, its directory is on the way to the trash.
  -- synced = 0: the files may still be in the page cache only.
  CREATE TABLE layers (
    id            TEXT PRIMARY KEY,
    diff_id       TEXT,
    tar_size      INTEGER,
    keeps_headers INTEGER NOT NULL CHECK (keeps_headers IN (0, 1)),
    parent_key    TEXT,
    state         TEXT NOT NULL CHECK (state IN ('ready', 'damaged', 'deleting')),
    synced        INTEGER NOT NULL CHECK (synced IN (0, 1)),
    epoch         INTEGER NOT NULL,
    published_at  INTEGER NOT NULL,
    CHECK ((diff_id IS NULL) = (tar_size IS NULL))
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX layers_by_diff_id ON layers (diff_id) WHERE diff_id IS NOT NULL;
  CREATE INDEX layers_not_ready ON layers (state) WHERE state <> 'ready';

  CREATE TABLE images (
    id         TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    stored_at  INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    owner      INTEGER NOT NULL,
    config     BLOB NOT NULL
  ) STRICT;
  CREATE INDEX images_listed ON images (created_at, id, size, owner);

  CREATE TABLE image_layers (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer_id TEXT NOT NULL REFERENCES layers (id),
    PRIMARY KEY (image_id, position)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX image_layers_by_layer ON image_layers (layer_id);

  CREATE TABLE names (
    name     TEXT PRIMARY KEY,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX names_by_image ON names (image_id, name);

  CREATE TABLE leases (
    id          TEXT PRIMARY KEY,
    uid         INTEGER NOT NULL,
    purpose     TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    acquired_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE lease_layers (
    lease_id TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    layer_id TEXT NOT NULL REFERENCES layers (id) ON DELETE CASCADE,
    PRIMARY KEY (lease_id, layer_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX lease_layers_by_layer ON lease_layers (layer_id);
  CREATE TABLE lease_images (
    lease_id TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (lease_id, image_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX lease_images_by_image ON lease_images (image_id);

  -- Staging directories in use.
  CREATE TABLE ops (
    id       TEXT PRIMARY KEY,
    lease_id TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    epoch    INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX ops_by_lease ON ops (lease_id);

  CREATE TABLE cache_records (
    record      INTEGER PRIMARY KEY,
    uid         INTEGER NOT NULL,
    static_key  TEXT NOT NULL,
    content_key TEXT NOT NULL,
    layer_id    TEXT REFERENCES layers (id) ON DELETE CASCADE,
    stored_at   INTEGER NOT NULL,
    used_at     INTEGER NOT NULL,
    UNIQUE (uid, static_key, content_key)
  ) STRICT;
  CREATE INDEX cache_records_by_layer ON cache_records (layer_id);
  CREATE INDEX cache_records_by_use ON cache_records (used_at);
  CREATE TABLE cache_parts (
    record   INTEGER NOT NULL REFERENCES cache_records (record) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (record, position)
  ) STRICT, WITHOUT ROWID;
`

/** A name is whose it is, whatever user stored the image first. */
const version2 = `
  ALTER TABLE names ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
  UPDATE names SET owner = (SELECT owner FROM images WHERE id = image_id);
`

/** What transfers with registries found out, and lists of images for several platforms. */
const version3 = `
  CREATE TABLE layer_blobs (
    diff_id     TEXT NOT NULL,
    digest      TEXT NOT NULL,
    size        INTEGER NOT NULL,
    compression TEXT NOT NULL CHECK (compression IN ('none', 'gzip', 'zstd')),
    -- How to make the bytes again; NULL: they came from elsewhere.
    recipe      TEXT,
    used_at     INTEGER NOT NULL,
    PRIMARY KEY (diff_id, digest)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX layer_blobs_by_use ON layer_blobs (used_at);

  CREATE TABLE blob_places (
    uid        INTEGER NOT NULL,
    host       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    repository TEXT NOT NULL,
    seen_at    INTEGER NOT NULL,
    PRIMARY KEY (uid, host, digest, repository)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX blob_places_by_use ON blob_places (seen_at);

  -- name@digest means the image; one row for each platform of an index.
  CREATE TABLE image_digests (
    name     TEXT NOT NULL,
    digest   TEXT NOT NULL,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (name, digest, image_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX image_digests_by_image ON image_digests (image_id);

  CREATE TABLE manifest_lists (
    name       TEXT PRIMARY KEY,
    id         TEXT NOT NULL,
    owner      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    -- JSON: format, annotations and entries.
    document   TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
  -- Local images in lists; they stay while the list does.
  CREATE TABLE manifest_list_images (
    list     TEXT NOT NULL REFERENCES manifest_lists (name) ON DELETE CASCADE,
    image_id TEXT NOT NULL REFERENCES images (id),
    PRIMARY KEY (list, image_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX manifest_list_images_by_image ON manifest_list_images (image_id);
`

/**
 * Cache records by what is done (shape), over which layers (parent, inputs) and with what content. Older ones say
 * less and are forgotten. A record outlives its layer, to tell why a step has to be done again.
 */
const version4 = `
  -- Digest of the layer's entries without their times; NULL until somebody had to know it.
  ALTER TABLE layers ADD COLUMN content_id TEXT;

  DROP TABLE cache_parts;
  DROP TABLE cache_records;
  CREATE TABLE cache_records (
    record      INTEGER PRIMARY KEY,
    uid         INTEGER NOT NULL,
    shape       TEXT NOT NULL,
    -- Digests of the stacks of layers it stood on and read from, and the stacks themselves as JSON.
    parent      TEXT NOT NULL,
    inputs      TEXT NOT NULL,
    origin      TEXT NOT NULL,
    content_key TEXT NOT NULL,
    -- What the stacks hold; NULL until somebody had to know it.
    state       TEXT,
    inputs_key  TEXT,
    tainted     INTEGER NOT NULL CHECK (tainted IN (0, 1)),
    -- 1: the result is a layer, usable while layer_id names it. 0: nothing changed.
    has_layer   INTEGER NOT NULL CHECK (has_layer IN (0, 1)),
    layer_id    TEXT REFERENCES layers (id) ON DELETE SET NULL,
    stored_at   INTEGER NOT NULL,
    used_at     INTEGER NOT NULL,
    evicted_at  INTEGER,
    CHECK (layer_id IS NULL OR has_layer = 1),
    UNIQUE (uid, shape, parent, inputs, content_key)
  ) STRICT;
  CREATE INDEX cache_records_by_shape ON cache_records (shape, stored_at);
  CREATE INDEX cache_records_by_layer ON cache_records (layer_id);
  CREATE INDEX cache_records_by_use ON cache_records (used_at);
  CREATE INDEX cache_records_evicted ON cache_records (uid, evicted_at) WHERE evicted_at IS NOT NULL;

  -- What the last build of a project was made of, as JSON: what the next one is compared with.
  CREATE TABLE cache_projects (
    uid      INTEGER NOT NULL,
    project  TEXT NOT NULL,
    document TEXT NOT NULL,
    used_at  INTEGER NOT NULL,
    PRIMARY KEY (uid, project)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX cache_projects_by_use ON cache_projects (used_at);
`

/** What the cache takes on the disk, found out when somebody has to know. */
const version5 = `
  ALTER TABLE layers ADD COLUMN disk_bytes INTEGER;

  CREATE TABLE cache_mounts (
    uid         INTEGER NOT NULL,
    -- Of its directory.
    name        TEXT NOT NULL,
    id          TEXT NOT NULL,
    used_at     INTEGER NOT NULL,
    bytes       INTEGER,
    -- When that was found out.
    measured_at INTEGER,
    PRIMARY KEY (uid, name)
  ) STRICT, WITHOUT ROWID;
`

/** Layers whose files are hard links of one another: of which layer they all came. */
const version6 = `
  ALTER TABLE layers ADD COLUMN family TEXT;
  CREATE INDEX layers_by_family ON layers (family) WHERE family IS NOT NULL;
`

/** Whose operation published a layer; NULL: nobody knows, as of layers from before. */
const version7 = `
  ALTER TABLE layers ADD COLUMN owner INTEGER;
`

/** Step n brings a database of version n to version n + 1. Steps are only ever appended. */
export const migrations: readonly string[] = [
  version1,
  version2,
  version3,
  version4,
  version5,
  version6,
  version7,
]

export function schemaVersion(db: Database): number {
  return Number(db.pragma('user_version', { simple: true }))
}

/**
 * Brings the database to the newest version, each step in its own transaction. Fails with
 * ISB_UNSUPPORTED, changing nothing, when a newer isula-builder wrote it.
 */
export function migrate(db: Database, steps: readonly string[] = migrations): void {
  const from = schemaVersion(db)
  if (from > steps.length) {
    throw new BuilderError(
      'ISB_UNSUPPORTED',
      `the image database ${db.name} has schema ${from}, this isula-builder knows up to ${steps.length}`,
      { hint: 'Run the newer isula-builder that wrote it, or use another data root.' },
    )
  }
  steps.slice(from).forEach((step, index) => {
    db.transaction(() => {
      db.exec(step)
      db.pragma(`user_version = ${from + index + 1}`)
    }).immediate()
  })
}

/** Settings that every connection needs; they are not stored in the file. */
export function configureConnection(db: Database): void {
  db.pragma('busy_timeout = 10000')
  db.pragma('foreign_keys = ON')
  db.pragma('trusted_schema = OFF')
}

/** A writer: WAL, and a commit is on the disk before it is acknowledged. */
export function configureWriter(db: Database): void {
  configureConnection(db)
  if (db.pragma('journal_mode = WAL', { simple: true }) !== 'wal') {
    throw new Error(`${db.name}: write-ahead logging is not available`)
  }
  db.pragma('synchronous = FULL')
}
