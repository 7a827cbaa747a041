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
    INSERT INTO layers VALUES ('l', NULL, NULL, 0, NULL, 'ready', 1, 1, 0);
    INSERT INTO images VALUES ('i', 0, 0, 0, 0, x'00');
    INSERT INTO image_layers VALUES ('i', 0, 'l');
    INSERT INTO names (name, image_id) VALUES ('n:1', 'i');
    INSERT INTO leases VALUES ('s', 0, 'p', 1, 0);
    INSERT INTO lease_layers VALUES ('s', 'l');
    INSERT INTO lease_images VALUES ('s', 'i');
    INSERT INTO ops VALUES ('o', 's', 1);
    INSERT INTO cache_records VALUES (1, 0, 'k', '', 'l', 0, 0);
    INSERT INTO cache_parts VALUES (1, 0, 'a', 'b');
  `)
  expect(() => db.exec("DELETE FROM layers WHERE id = 'l'")).toThrow(/FOREIGN KEY/)
  db.exec("DELETE FROM images WHERE id = 'i'; DELETE FROM layers WHERE id = 'l'; DELETE FROM leases")
  const tables = [
    'image_layers',
    'names',
    'lease_layers',
    'lease_images',
    'ops',
    'cache_records',
    'cache_parts',
  ]
  for (const table of tables) {
    expect([table, db.prepare(`SELECT count(*) FROM ${table}`).pluck().get()]).toEqual([table, 0])
  }
})
