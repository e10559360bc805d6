//! Kept answers of idempotent calls.

use super::classify::store_error;
use super::lease::Lease;
use super::pool::Pool;
use super::sql::answers_sql;
use super::transaction::Abort;
use super::usage::SlotDelta;
use kvasm_core::store::StoreError;
use kvasm_core::{
    ANSWERS_MAX, ANSWERS_OF_RANGE_MAX, AnswerId, AppId, Commit, KeptAnswer, RequestHash, Resource,
    Timestamp,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

/// Returns an answer that has not expired.
pub(super) async fn get(
    pool: &Pool,
    app: AppId,
    id: AnswerId,
    now: Timestamp,
) -> Result<Option<KeptAnswer>, StoreError> {
    let statement = || {
        let statement = sqlx::query(answers_sql::GET).bind(app.uuid());
        statement.bind(id.0.to_vec()).bind(now.0)
    };
    let rows = pool.read(statement).await?;
    let answer = rows.first().map(|row| answer(id, row)).transpose();
    answer.map_err(store_error)
}

fn answer(id: AnswerId, row: &PgRow) -> Result<KeptAnswer, Error> {
    let output: Option<Vec<u8>> = row.try_get(1)?;
    Ok(KeptAnswer {
        id,
        request: RequestHash(row.try_get(0)?),
        output: output.map(Into::into),
        expires_at: Timestamp(row.try_get(2)?),
    })
}

/// Writes the answer that a batch keeps. Call it before the batch locks anything but the app: it
/// waits for a commit of the same identity.
pub(super) async fn keep(lease: &mut Lease, write: &Commit) -> Result<SlotDelta, Abort> {
    let mut delta = SlotDelta::default();
    let Some(answer) = &write.batch.keep else {
        return Ok(delta);
    };
    let size = i32::try_from(answer.bytes()).unwrap_or(i32::MAX);
    let (first, last) = answer.id.range();
    let statement = sqlx::query(answers_sql::KEEP)
        .bind(write.app_id.uuid())
        .bind(answer.id.0.to_vec())
        .bind(answer.request.0.to_vec())
        .bind(answer.output.as_deref())
        .bind(size)
        .bind(answer.expires_at.0)
        .bind(write.now.0)
        .bind(first.0.to_vec())
        .bind(last.0.to_vec())
        .bind(ANSWERS_OF_RANGE_MAX as i64);
    let rows = lease.run(statement).await?;
    let row = rows.first().ok_or(Error::RowNotFound)?;
    if !row.try_get::<bool, _>(0)? {
        Err(StoreError::Quota {
            resource: Resource::Answers,
            limit: ANSWERS_MAX,
        })?;
    }
    let replaced: Option<i32> = row.try_get(1)?;
    delta.keep_answer(size, replaced.ok_or(StoreError::AlreadyAnswered)?);
    Ok(delta)
}
