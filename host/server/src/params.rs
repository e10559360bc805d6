//! Path and query parameters.

use super::problem::{Kind, Problem};
use super::{SharedServer, problem};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// The parameters of a path, percent-decoded.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<SharedServer> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &SharedServer) -> Result<Self, Problem> {
        // `target` has validated most of it already; this reports the remaining errors.
        let path = Path::<T>::from_request_parts(parts, shared).await;
        let Path(segments) = path.map_err(|e: PathRejection| refused(e.body_text()))?;
        Ok(Segments(segments))
    }
}

/// The parameters of a query. The types refuse unknown ones.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<SharedServer> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &SharedServer) -> Result<Self, Problem> {
        // As for paths, above.
        let query = Query::<T>::from_request_parts(parts, shared).await;
        let Query(params) = query.map_err(|e: QueryRejection| refused(e.body_text()))?;
        Ok(Params(params))
    }
}

/// Refuses a range of times that has none. `name` is the parameter of the first one.
pub(super) fn check_range(
    name: &str,
    from: Option<i64>,
    until: Option<i64>,
) -> Result<(), Problem> {
    match (from, until) {
        (Some(from), Some(until)) if from >= until => Err(refused(format!(
            "`{name}` ({from}) must be less than `until` ({until})"
        ))),
        _ => Ok(()),
    }
}

pub(super) fn refused(why: impl Into<String>) -> Problem {
    Problem::new(problem::Kind::InvalidArgument, why)
}

/// Maximum number of rows in a page of an administrative list.
pub(super) const PAGE_MAX: u32 = 1_000;

/// The number of rows in a page: as requested, or 100.
pub(super) fn page_limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked {
        None => Ok(100),
        Some(limit @ 1..=PAGE_MAX) => Ok(limit),
        Some(limit) => Err(Problem::new(
            Kind::InvalidArgument,
            format!("the limit is {limit}; it must be from 1 to {PAGE_MAX}"),
        )),
    }
}
