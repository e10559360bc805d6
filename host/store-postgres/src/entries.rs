//! Reads of one statement each, and decoding of rows.

use super::compact::compact;
use super::pool::Pool;
use super::{classify::store_error, registry, sql};
use kvasm_core::store::StoreError;
use kvasm_core::{
    ActivePlugin, App, AppId, AppLimits, AppName, Collection, CursorKey, Digest, Entry, Generation,
    JsonText, Key, KeyRange, ListPage, ListQuery, Quota, Timestamp, Value, Version,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::ops::Bound;

pub(super) async fn app(pool: &Pool, name: &AppName) -> Result<Option<App>, StoreError> {
    let rows = pool
        .read(|| sqlx::query(sql::registry_sql::APP).bind(name.as_str()))
        .await?;
    rows.first().map(app_row).transpose().map_err(store_error)
}

pub(super) async fn app_by_id(pool: &Pool, app: AppId) -> Result<Option<App>, StoreError> {
    let statement = || sqlx::query(sql::registry_sql::APP_BY_ID).bind(app.uuid());
    let rows = pool.read(statement).await?;
    rows.first().map(app_row).transpose().map_err(store_error)
}

pub(super) async fn apps(
    pool: &Pool,
    after: Option<&AppName>,
    limit: u32,
) -> Result<Vec<App>, StoreError> {
    let after = after.map_or("", AppName::as_str);
    let rows = pool
        .read(|| {
            sqlx::query(sql::registry_sql::APPS)
                .bind(after)
                .bind(i64::from(limit))
        })
        .await?;
    rows.iter()
        .map(app_row)
        .collect::<Result<_, _>>()
        .map_err(store_error)
}

pub(super) fn app_row(row: &PgRow) -> Result<App, Error> {
    let name: String = row.try_get(1)?;
    let cursor_key: [u8; CursorKey::BYTES] = row.try_get(2)?;
    Ok(App {
        id: AppId::from(row.try_get::<uuid::Uuid, _>(0)?),
        name: AppName::parse(&name).map_err(|e| Error::Decode(Box::new(e)))?,
        created_at: Timestamp(row.try_get(3)?),
        cursor_key: CursorKey::new(cursor_key),
        public: row.try_get(4)?,
        limits: AppLimits {
            quota: Quota {
                entries: unsigned(row, 5)?,
                bytes: unsigned(row, 6)?,
            },
            calls_per_second: narrow(row, 7)?,
            calls_at_once: narrow(row, 8)?,
        },
        active: active(row)?,
        settings: row.try_get::<Option<uuid::Uuid>, _>(11)?.map(Generation),
    })
}

fn unsigned(row: &PgRow, column: usize) -> Result<Option<u64>, Error> {
    let limit: Option<i64> = row.try_get(column)?;
    Ok(limit.map(i64::unsigned_abs))
}

fn narrow(row: &PgRow, column: usize) -> Result<Option<u32>, Error> {
    let limit: Option<i64> = row.try_get(column)?;
    limit.map(registry::narrow).transpose()
}

fn active(row: &PgRow) -> Result<Option<ActivePlugin>, Error> {
    let digest: Option<[u8; 32]> = row.try_get(10)?;
    let active = registry::optional_version(row, 9)?.zip(digest);
    Ok(active.map(|(version, digest)| ActivePlugin {
        version,
        digest: Digest(digest),
    }))
}

pub(super) async fn get(
    pool: &Pool,
    app: AppId,
    collection: &Collection,
    key: &Key,
    now: Timestamp,
) -> Result<Option<Entry>, StoreError> {
    let statement = || {
        let query = sqlx::query(sql::GET).bind(app.uuid());
        query
            .bind(collection.as_str())
            .bind(key.as_str())
            .bind(now.0)
    };
    let rows = pool.read(statement).await?;
    rows.first()
        .map(|row| entry(row, 0))
        .transpose()
        .map_err(store_error)
}

pub(super) async fn get_many(
    pool: &Pool,
    app: AppId,
    keys: &[(Collection, Key)],
    now: Timestamp,
    bytes_max: usize,
) -> Result<Vec<Option<Entry>>, StoreError> {
    let statement = || {
        let names = keys.iter().map(|(c, k)| (c.as_str(), k.as_str()));
        let (collections, keys): (Vec<_>, Vec<_>) = names.unzip();
        let statement = sqlx::query(sql::GET_MANY).bind(app.uuid());
        let statement = statement.bind(collections).bind(keys).bind(now.0);
        statement.bind(i64::try_from(bytes_max).unwrap_or(i64::MAX))
    };
    let rows = pool.read(statement).await?;
    let mut entries = vec![None; keys.len()];
    for row in &rows {
        if row.try_get(1).map_err(store_error)? {
            return Err(StoreError::AnswerTooLarge { limit: bytes_max });
        }
        let place: i64 = row.try_get(0).map_err(store_error)?;
        // Positions count from 1.
        let place = usize::try_from(place - 1).ok();
        if let Some(place) = place.and_then(|place| entries.get_mut(place)) {
            *place = Some(entry(row, 2).map_err(store_error)?);
        }
    }
    Ok(entries)
}

/// Returns whether the entry exists, and whether the app exists.
pub(super) async fn has(
    pool: &Pool,
    app: AppId,
    collection: &str,
    key: &str,
    now: Timestamp,
) -> Result<(bool, bool), StoreError> {
    let statement = || {
        sqlx::query(sql::HAS)
            .bind(app.uuid())
            .bind(collection)
            .bind(key)
            .bind(now.0)
    };
    two_bools(&pool.read(statement).await?).map_err(store_error)
}

/// Decodes the only row of a statement with two results.
fn two_bools(rows: &[PgRow]) -> Result<(bool, bool), Error> {
    let row = rows.first().ok_or(Error::RowNotFound)?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

pub(super) async fn app_exists(pool: &Pool, app: AppId) -> Result<bool, StoreError> {
    let rows = pool
        .read(|| sqlx::query(sql::APP_EXISTS).bind(app.uuid()))
        .await?;
    let row = rows
        .first()
        .ok_or(Error::RowNotFound)
        .map_err(store_error)?;
    row.try_get(0).map_err(store_error)
}

pub(super) async fn list(
    pool: &Pool,
    app: AppId,
    query: &ListQuery,
    now: Timestamp,
) -> Result<ListPage, StoreError> {
    if query.range.is_empty() {
        return Ok(ListPage {
            entries: Vec::new(),
            more: false,
        });
    }
    let text = match (query.with_values, query.reverse) {
        (false, false) => sql::KEYS_FORWARD,
        (false, true) => sql::KEYS_REVERSE,
        (true, false) => sql::ENTRIES_FORWARD,
        (true, true) => sql::ENTRIES_REVERSE,
    };
    let (lower, upper) = half_open(&query.range);
    // A page has at least one entry, even if its bounds are narrow.
    let entries = i64::from(query.limit.max(1));
    let bytes = i64::try_from(query.bytes_max.max(1)).unwrap_or(i64::MAX);
    let statement = || {
        let statement = sqlx::query(text)
            .bind(app.uuid())
            .bind(query.collection.as_str());
        statement
            .bind(&lower)
            .bind(&upper)
            .bind(now.0)
            .bind(entries)
            .bind(bytes)
    };
    let rows = pool.read(statement).await?;
    page(&rows, query.with_values).map_err(store_error)
}

/// Converts a range to an inclusive lower and an exclusive upper key. The least text above a key is
/// that key and U+0001, because no key contains U+0000.
fn half_open(range: &KeyRange) -> (String, Option<String>) {
    let after = |key: &str| format!("{key}\u{1}");
    let lower = match &range.lower {
        Bound::Unbounded => String::new(),
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => after(key),
    };
    let upper = match &range.upper {
        Bound::Unbounded => None,
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.clone()),
    };
    (lower, upper)
}

fn page(rows: &[PgRow], with_values: bool) -> Result<ListPage, Error> {
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let key = Key::stored(row.try_get(0)?);
        let entry = with_values.then(|| entry(row, 2)).transpose()?;
        entries.push((key, entry));
    }
    let followed: Option<Option<bool>> = rows.last().map(|row| row.try_get(1)).transpose()?;
    Ok(ListPage {
        entries,
        more: followed.flatten().is_some(),
    })
}

/// Decodes the columns of `entry_columns!`, starting at `first`.
fn entry(row: &PgRow, first: usize) -> Result<Entry, Error> {
    let json: Option<String> = row.try_get(first)?;
    let value = match json {
        Some(json) => Value::Json(JsonText::stored(compact(json))),
        None => Value::Bytes(row.try_get(first + 1)?),
    };
    let expires_at: Option<i64> = row.try_get(first + 5)?;
    Ok(Entry {
        value,
        version: version(row, first + 2)?,
        created_at: Timestamp(row.try_get(first + 3)?),
        updated_at: Timestamp(row.try_get(first + 4)?),
        expires_at: expires_at.map(Timestamp),
    })
}

pub(super) fn version(row: &PgRow, column: usize) -> Result<Version, Error> {
    let version: i64 = row.try_get(column)?;
    Ok(Version(version.unsigned_abs()))
}

pub(super) async fn collections(
    pool: &Pool,
    app: AppId,
    after: Option<&Collection>,
    limit: u32,
) -> Result<Vec<Collection>, StoreError> {
    let after = after.map_or("", Collection::as_str);
    let statement = || {
        let query = sqlx::query(sql::COLLECTIONS).bind(app.uuid());
        query.bind(after).bind(i64::from(limit))
    };
    let rows = pool.read(statement).await?;
    rows.iter()
        .map(|row| row.try_get(0).map(Collection::stored))
        .collect::<Result<_, _>>()
        .map_err(store_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::Key;

    #[test]
    fn range_bounds_become_half_open() {
        let range = |lower, upper| half_open(&KeyRange { lower, upper });
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(
            range(Bound::Unbounded, Bound::Unbounded),
            (String::new(), None)
        );
        assert_eq!(
            range(Bound::Included(a.clone()), Bound::Excluded(b.clone())),
            (a.clone(), Some(b.clone()))
        );
        assert_eq!(
            range(Bound::Excluded(a), Bound::Included(b)),
            ("a\u{1}".to_owned(), Some("b\u{1}".to_owned()))
        );
        // No key sorts between a key and that key with U+0001.
        assert!(Key::parse("a\0").is_err() && "a" < "a\u{1}");
    }
}
