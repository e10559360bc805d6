//! The operator's console: the files of a browser client of the API, embedded in the program.
//!
//! The files need no token and contain no data; the client sends the token of its user with each
//! request to the API.

mod assets;
mod encoding;

use super::preconditions::Preconditions;
use super::problem::{Kind, Problem};
use assets::{Asset, find};
use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use encoding::accepts_gzip;

/// Scripts, styles and requests only of the console's own origin, and no page that frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'none'";

/// The headers of every file.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    // Browsers ask each time, so that the files are those of the running program.
    (CACHE_CONTROL, "no-cache"),
    (VARY, "accept-encoding"),
];

/// The routes of the page and its files. They are not part of the API, and so not in the OpenAPI
/// document.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(page))
        .route("/console/{*file}", get(file))
}

async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    answer("index.html", &headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let asset = find(name)
        .ok_or_else(|| Problem::new(Kind::RouteNotFound, "the console has no such file"))?;
    let zipped = match accepts_gzip(headers.get_all(ACCEPT_ENCODING)) {
        true => asset.gzip(),
        false => None,
    };
    let tag = match zipped {
        Some(_) => format!("{}-gzip", asset.digest()),
        None => asset.digest().to_owned(),
    };
    let unchanged = Preconditions::of(headers)?.check_read(&tag)?;
    let mut response = match unchanged {
        Some(unchanged) => unchanged,
        None => content(asset, zipped),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // It has only hexadecimal digits and letters, so it is a valid header.
    if let Ok(tag) = HeaderValue::try_from(format!("\"{tag}\"")) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}

fn content(asset: &'static Asset, zipped: Option<&'static [u8]>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    if zipped.is_some() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let body = Bytes::from_static(zipped.unwrap_or(asset.bytes));
    (StatusCode::OK, headers, body).into_response()
}
