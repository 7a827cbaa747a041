import Database from 'better-sqlite3'
import { expect, test } from 'vitest'
import { configureConnection, migrate, migrations, schemaVersion } from './schema.js'

test('brings an empty database to the newest version', () => {
  const db = new Database(':memory:')
  migrate(db)
  expect(schemaVersion(db)).toBe(migrations.length)
  expect(db.prepare("SELECT value FROM meta WHERE key = 'epoch'").pluck().get()).toBe(0)
  migrate(db)
  expect(schemaVersion(db)).toBe(migrations.length)
})

test('runs only the steps that are missing', () => {
  const db = new Database(':memory:')
  migrate(db, ['CREATE TABLE a (x)'])
  db.exec('INSERT INTO a VALUES (1)')
  migrate(db, ['CREATE TABLE a (x)', 'ALTER TABLE a ADD COLUMN y DEFAULT 2', 'CREATE TABLE b (z)'])
  expect(schemaVersion(db)).toBe(3)
  expect(db.prepare('SELECT x, y FROM a').all()).toEqual([{ x: 1, y: 2 }])
})

test('keeps the last whole step when one fails', () => {
  const db = new Database(':memory:')
  const steps = ['CREATE TABLE a (x)', 'CREATE TABLE b (x); CREATE TABLE a (x)']
  expect(() => migrate(db, steps)).toThrow(/already exists/)
  expect(schemaVersion(db)).toBe(1)
  expect(db.prepare("SELECT name FROM sqlite_schema WHERE name = 'b'").all()).toEqual([])
})

test('refuses a database of a newer version and leaves it alone', () => {
  const db = new Database(':memory:')
  db.pragma('user_version = 99')
  expect(() => migrate(db)).toThrow(expect.objectContaining({ code: 'ISB_UNSUPPORTED' }))
  expect(schemaVersion(db)).toBe(99)
  expect(db.prepare('SELECT count(*) FROM sqlite_schema').pluck().get()).toBe(0)
})

test('removes everything that hangs on a removed image, layer or lease', () => {
  const db = new Database(':memory:')
  configureConnection(db)
  migrate(db)
  db.exec(`
    INSERT INTO layers VALUES ('l', NULL, NULL, 0, NULL, 'ready', 1, 1, 0, NULL, NULL, NULL, NULL);
    INSERT INTO images VALUES ('i', 0, 0, 0, 0, x'00');
    INSERT INTO image_layers VALUES ('i', 0, 'l');
    INSERT INTO names (name, image_id) VALUES ('n:1', 'i');
    INSERT INTO leases VALUES ('s', 0, 'p', 1, 0);
    INSERT INTO lease_layers VALUES ('s', 'l');
    INSERT INTO lease_images VALUES ('s', 'i');
    INSERT INTO ops VALUES ('o', 's', 1);
    INSERT INTO cache_records VALUES (1, 0, 'k', 'p', 'i', '[[]]', '', NULL, NULL, 0, 1, 'l', 0, 0, NULL);
  `)
  expect(() => db.exec("DELETE FROM layers WHERE id = 'l'")).toThrow(/FOREIGN KEY/)
  db.exec("DELETE FROM images WHERE id = 'i'; DELETE FROM layers WHERE id = 'l'; DELETE FROM leases")
  const tables = ['image_layers', 'names', 'lease_layers', 'lease_images', 'ops']
  for (const table of tables) {
    expect([table, db.prepare(`SELECT count(*) FROM ${table}`).pluck().get()]).toEqual([table, 0])
  }
  // It still tells that there was a result.
  expect(db.prepare('SELECT layer_id, has_layer FROM cache_records').all()).toEqual([
    { layer_id: null, has_layer: 1 },
  ])
})

test('a database of version 3 keeps its layers and forgets its cache', () => {
  const db = new Database(':memory:')
  configureConnection(db)
  migrate(db, migrations.slice(0, 3))
  db.exec(`
    INSERT INTO layers VALUES ('l', 'sha256:d', 1, 0, NULL, 'ready', 1, 1, 0);
    INSERT INTO cache_records VALUES (1, 0, 'k', '', 'l', 0, 0);
    INSERT INTO cache_parts VALUES (1, 0, 'a', 'b');
  `)
  migrate(db)
  expect(db.prepare('SELECT id, diff_id, content_id FROM layers').all()).toEqual([
    { id: 'l', diff_id: 'sha256:d', content_id: null },
  ])
  expect(db.prepare('SELECT count(*) FROM cache_records').pluck().get()).toBe(0)
})

test('a database of version 2 keeps its images, and can remember transfers and lists', () => {
  const db = new Database(':memory:')
  configureConnection(db)
  migrate(db, migrations.slice(0, 2))
  db.exec(`
    INSERT INTO layers VALUES ('l', NULL, NULL, 0, NULL, 'ready', 1, 1, 0);
    INSERT INTO images VALUES ('i', 1, 2, 3, 1000, x'00');
    INSERT INTO image_layers VALUES ('i', 0, 'l');
    INSERT INTO names VALUES ('n:1', 'i', 1000);
  `)
  migrate(db)
  expect(schemaVersion(db)).toBe(migrations.length)
  expect(db.prepare('SELECT name, image_id, owner FROM names').all()).toEqual([
    { name: 'n:1', image_id: 'i', owner: 1000 },
  ])
  expect(db.prepare('SELECT id, size, owner FROM images').all()).toEqual([{ id: 'i', size: 3, owner: 1000 }])
  db.exec(`
    INSERT INTO layer_blobs VALUES ('sha256:d', 'sha256:b', 5, 'gzip', NULL, 1);
    INSERT INTO blob_places VALUES (1000, 'r', 'sha256:b', 'a/b', 1);
    INSERT INTO image_digests VALUES ('r/a/b', 'sha256:m', 'i');
    INSERT INTO manifest_lists VALUES ('list:1', 'id', 1000, 1, '{}');
    INSERT INTO manifest_list_images VALUES ('list:1', 'i');
  `)
  expect(() => db.exec("INSERT INTO layer_blobs VALUES ('d', 'b', 5, 'xz', NULL, 1)")).toThrow(/CHECK/)
  // An image stays while a list has it; what is known about it goes with it.
  expect(() => db.exec("DELETE FROM images WHERE id = 'i'")).toThrow(/FOREIGN KEY/)
  db.exec("DELETE FROM manifest_lists; DELETE FROM images WHERE id = 'i'")
  for (const table of ['manifest_list_images', 'image_digests', 'names', 'image_layers']) {
    expect([table, db.prepare(`SELECT count(*) FROM ${table}`).pluck().get()]).toEqual([table, 0])
  }
})
