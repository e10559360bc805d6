//! The statements of Kvasm's Postgres store, issued with sqlx alone on the database of a Kvasm
//! server, and a stored procedure that does a whole transfer.

use super::transfer;
use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// The number of connections of a Kvasm host.
pub const CONNECTIONS: usize = 16;
/// Each connection counts its writes in one of this many usage slots, as Kvasm's do.
const SLOTS: usize = 8;

/// Like `GET` of the store.
const GET: &str = "SELECT e.json::text, e.bytes, e.version, e.created_at, e.updated_at, e.expires_at \
    FROM kv_entries AS e WHERE e.app_id = $1 AND e.collection = $2 AND e.key = $3 \
    AND (e.expires_at IS NULL OR e.expires_at > $4) \
    AND EXISTS (SELECT 1 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL)";
/// Like `COMMIT_ENTRIES` of the store.
const COMMIT: &str = "SELECT c.outcome, c.of_collection, c.of_key, c.of_version \
    FROM commit_entries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS c";

const PROCEDURE: &[&str] = &[
    "CREATE TABLE bench_accounts (id BIGINT PRIMARY KEY, sum BIGINT NOT NULL)",
    "INSERT INTO bench_accounts SELECT id, 0 FROM generate_series(0, 19999) AS id",
    "CREATE FUNCTION bench_transfer(one BIGINT, other BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
     DECLARE a BIGINT; b BIGINT;
     BEGIN
       PERFORM 1 FROM bench_accounts WHERE id IN (one, other) ORDER BY id FOR UPDATE;
       SELECT sum INTO a FROM bench_accounts WHERE id = one;
       SELECT sum INTO b FROM bench_accounts WHERE id = other;
       UPDATE bench_accounts SET sum = a - 1 WHERE id = one;
       UPDATE bench_accounts SET sum = b + 1 WHERE id = other;
     END $$",
    "VACUUM ANALYZE bench_accounts",
];

/// The work to measure.
#[derive(Clone, Copy)]
pub enum Work {
    /// One SELECT.
    Get,
    /// Two SELECTs, and one statement that commits.
    Transfer,
    /// One call of a stored procedure.
    Procedure,
}

/// A pool of connections that reuses the most recently used one first, and sends no statement
/// to test it.
pub struct BareSqlx {
    app: Uuid,
    idle: Mutex<Vec<(PgConnection, i16)>>,
    permits: Semaphore,
}

impl BareSqlx {
    /// Connects to the database of a Kvasm server that has the app `sdk`.
    pub async fn connect(url: &str) -> Result<BareSqlx> {
        let mut idle = Vec::new();
        for number in 0..CONNECTIONS {
            let slot = i16::try_from(number % SLOTS)?;
            idle.push((PgConnection::connect(url).await?, slot));
        }
        let (first, _) = idle.first_mut().context("no connection")?;
        let app = sqlx::query_scalar("SELECT id FROM apps WHERE name = 'sdk'");
        Ok(BareSqlx {
            app: app.fetch_one(first).await?,
            idle: Mutex::new(idle),
            permits: Semaphore::new(CONNECTIONS),
        })
    }

    /// Creates the stored procedure and its table, once for a database.
    pub async fn make_procedure(url: &str) -> Result<()> {
        let mut connection = PgConnection::connect(url).await?;
        for statement in PROCEDURE {
            sqlx::query(*statement).execute(&mut connection).await?;
        }
        Ok(())
    }

    /// Does the work once.
    pub async fn run(&self, work: Work) -> Result<String> {
        let _permit = self.permits.acquire().await?;
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let (mut connection, slot) = idle.context("a connection was lost")?;
        let done = match work {
            Work::Get => self.value(&mut connection).await,
            Work::Transfer => self.transfer(&mut connection, slot).await,
            Work::Procedure => procedure(&mut connection).await,
        };
        if let Ok(mut idle) = self.idle.lock() {
            idle.push((connection, slot));
        }
        done
    }

    async fn get(&self, on: &mut PgConnection, collection: &str, key: &str) -> Result<PgRow> {
        let statement = sqlx::query(GET).bind(self.app).bind(collection).bind(key);
        Ok(statement.bind(now()?).fetch_one(on).await?)
    }

    async fn value(&self, on: &mut PgConnection) -> Result<String> {
        Ok(self.get(on, "numbers", "00000007").await?.try_get(0)?)
    }

    /// Two reads, and a commit that succeeds if neither entry has changed since; repeated until
    /// it does.
    async fn transfer(&self, on: &mut PgConnection, slot: i16) -> Result<String> {
        let changes = transfer();
        loop {
            let (mut keys, mut sums, mut versions) = (Vec::new(), Vec::new(), Vec::new());
            for (account, by) in changes {
                let key = format!("{account:08}");
                let row = self.get(on, "accounts", &key).await?;
                let sum: i64 = row.try_get::<&str, _>(0)?.parse()?;
                sums.push((sum + by).to_string());
                versions.push(row.try_get::<i64, _>(2)?);
                keys.push(key);
            }
            let sizes: Vec<_> = sums
                .iter()
                .map(|sum| i32::try_from("accounts".len() + 8 + sum.len()))
                .collect::<Result<_, _>>()?;
            let rows = sqlx::query(COMMIT)
                .bind(self.app)
                .bind(["accounts"; 2])
                .bind(keys)
                .bind(["set"; 2])
                .bind(versions)
                .bind(sums)
                .bind([None::<&[u8]>; 2])
                .bind(sizes)
                .bind([None::<i64>; 2])
                .bind(None::<&str>)
                .bind(None::<i64>)
                .bind(None::<i64>)
                .bind(None::<Uuid>)
                .bind(now()?)
                .bind(slot)
                .fetch_all(&mut *on)
                .await?;
            let outcome: &str = rows.first().context("no outcome")?.try_get(0)?;
            match outcome {
                "set" => return Ok(String::new()),
                "failed" => {}
                other => bail!("the commit's outcome is {other}"),
            }
        }
    }
}

async fn procedure(on: &mut PgConnection) -> Result<String> {
    let [(one, _), (other, _)] = transfer();
    let call = sqlx::query("SELECT bench_transfer($1, $2)");
    call.bind(one).bind(other).execute(on).await?;
    Ok(String::new())
}

fn now() -> Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}
