//! Choices in SQLite's schema: an index on (app_id, collection) in addition to the primary key,
//! and a table without row ids.

use crate::Effort;
use crate::folders::folder;
use crate::report::Row;
use anyhow::Result;
use rusqlite::Connection;
use std::time::Instant;
use tokio::runtime::Runtime;

const MIGRATION: &str = include_str!("../../migrations/sqlite/0001_initial.sql");
const INDEX: &str = "CREATE INDEX by_collection ON kv_entries (app_id, collection)";
const APP: [u8; 16] = [7; 16];

struct Variant {
    connection: Connection,
    _folder: tempfile::TempDir,
}

impl Variant {
    fn new(schema: &str, then: &str) -> Result<Variant> {
        let folder = folder()?;
        let connection = Connection::open(folder.path().join("schema.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(schema)?;
        connection.execute_batch(then)?;
        connection.execute("INSERT INTO apps VALUES (?1, 'a', zeroblob(32), 1)", [APP])?;
        Ok(Variant {
            connection,
            _folder: folder,
        })
    }

    /// Microseconds per write, 200 per commit, keys in random order.
    fn write(&self, round: usize, count: usize, bytes: usize) -> Result<f64> {
        let value = "x".repeat(bytes);
        let start = Instant::now();
        for group in 0..count / 200 {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            for n in 0..200 {
                let key =
                    ((group * 200 + n + round * count) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let sql = "INSERT INTO kv_entries VALUES (?1, ?2, ?3, ?4, 1, 1, 1, 1, NULL)";
                let collection = format!("c{}", n % 8);
                self.connection.prepare_cached(sql)?.execute((
                    APP,
                    collection,
                    format!("{key:016x}"),
                    &value,
                ))?;
            }
            self.connection.execute_batch("COMMIT")?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / count as f64)
    }

    /// Microseconds per page of 1,000 keys.
    fn list(&self) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..10 {
            let sql = "SELECT key FROM kv_entries WHERE app_id = ?1 AND collection = ?2
                AND (expires_at IS NULL OR expires_at > 5) AND key >= '' ORDER BY key LIMIT 1000";
            let mut statement = self.connection.prepare_cached(sql)?;
            let keys: Vec<String> = statement
                .query_map((APP, "c3"), |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            std::hint::black_box(keys);
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / 10.0)
    }

    /// Microseconds per read of one entry.
    fn get(&self, count: usize) -> Result<f64> {
        let start = Instant::now();
        for n in 0..200 {
            let key = ((n % count) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let sql =
                "SELECT value FROM kv_entries WHERE app_id = ?1 AND collection = ?2 AND key = ?3";
            let read: String = self
                .connection
                .prepare_cached(sql)?
                .query_row((APP, format!("c{}", n % 8), format!("{key:016x}")), |row| {
                    row.get(0)
                })?;
            std::hint::black_box(read);
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / 200.0)
    }
}

fn compare(name: &str, bytes: usize, effort: Effort, schema: &str, then: &str) -> Result<Vec<Row>> {
    let (changed, plain) = (Variant::new(schema, then)?, Variant::new(MIGRATION, "")?);
    let count = (10_000 / effort.divisor).max(400);
    let (mut writes, mut lists, mut gets) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        writes.push((
            changed.write(round, count, bytes)?,
            plain.write(round, count, bytes)?,
        ));
        lists.push((changed.list()?, plain.list()?));
        gets.push((changed.get(count)?, plain.get(count)?));
    }
    Ok(vec![
        Row::pair(&format!("{name}, {bytes} B: write"), "us", &writes, None),
        Row::pair(
            &format!("{name}, {bytes} B: page of 1,000 keys"),
            "us",
            &lists,
            None,
        ),
        Row::pair(&format!("{name}, {bytes} B: get"), "us", &gets, None),
    ])
}

pub fn measure(_: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let no_rowid = MIGRATION.replace(
        "PRIMARY KEY (app_id, collection, key)\n) STRICT;",
        "PRIMARY KEY (app_id, collection, key)\n) STRICT, WITHOUT ROWID;",
    );
    let mut rows = compare("extra index", 100, effort, MIGRATION, INDEX)?;
    rows.extend(compare("WITHOUT ROWID", 100, effort, &no_rowid, "")?);
    rows.extend(compare("WITHOUT ROWID", 4096, effort, &no_rowid, "")?);
    Ok(rows)
}
