//! Transfers with SQLite in a single-threaded program.

use super::{ACCOUNTS, transfer};
use crate::folders::folder;
use anyhow::Result;
use rusqlite::{Connection, TransactionBehavior, params};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A connection in WAL mode with every commit durable before the next one begins.
pub struct Inline {
    connection: Connection,
    _folder: TempDir,
}

impl Inline {
    pub fn open() -> Result<Inline> {
        let folder = folder()?;
        let mut connection = Connection::open(folder.path().join("inline.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE accounts (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL)",
        )?;
        let transaction = connection.transaction()?;
        for account in 0..i64::try_from(ACCOUNTS)? {
            transaction.execute("INSERT INTO accounts VALUES (?1, 0)", [account])?;
        }
        transaction.commit()?;
        Ok(Inline {
            connection,
            _folder: folder,
        })
    }

    /// Transfers per second.
    pub fn rate(&mut self, time: Duration) -> Result<f64> {
        let start = Instant::now();
        let mut done = 0_u64;
        while start.elapsed() < time {
            let behavior = TransactionBehavior::Immediate;
            let transaction = self.connection.transaction_with_behavior(behavior)?;
            for (account, by) in transfer() {
                let sum: i64 = transaction
                    .prepare_cached("SELECT sum FROM accounts WHERE id = ?1")?
                    .query_row([account], |row| row.get(0))?;
                transaction
                    .prepare_cached("UPDATE accounts SET sum = ?2 WHERE id = ?1")?
                    .execute(params![account, sum + by])?;
            }
            transaction.commit()?;
            done += 1;
        }
        Ok(done as f64 / start.elapsed().as_secs_f64())
    }
}
