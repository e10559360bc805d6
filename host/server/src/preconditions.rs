//! `If-Match` and `If-None-Match` (RFC 9110, section 13).

use super::SharedServer;
use super::params::refused;
use super::problem::{Kind, Problem};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kvasm_abi::{EntityTag, EntityTags};
use kvasm_core::{App, Collection, Expect, Key, Version};
use kvasm_service::{Caller, ServiceError};
use std::time::Duration;

/// How often a write is tried whose precondition does not name a single version: it is checked
/// before the write, and others can change the entry in between.
const ATTEMPTS: usize = 32;

/// A list of entity tags.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    These(Vec<Tag>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    is_weak: bool,
    /// The tag without its quotes.
    opaque: String,
}

/// The preconditions of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Preconditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

impl Preconditions {
    pub(super) fn of(headers: &HeaderMap) -> Result<Preconditions, Problem> {
        Ok(Preconditions {
            if_match: tags(headers, &IF_MATCH)?,
            if_none_match: tags(headers, &IF_NONE_MATCH)?,
        })
    }

    /// Whether they name tags, so that the resource must not change between the check and the
    /// write.
    pub(super) fn name_tags(&self) -> bool {
        let lists = [&self.if_match, &self.if_none_match];
        lists
            .iter()
            .any(|tags| matches!(tags, Some(Tags::These(_))))
    }

    /// Whether `If-Match` holds for the current tag.
    fn matches(&self, current: Option<&str>) -> bool {
        match (&self.if_match, current) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Tags::Any), Some(_)) => true,
            // Strong comparison.
            (Some(Tags::These(tags)), Some(current)) => {
                tags.iter().any(|tag| !tag.is_weak && tag.opaque == current)
            }
        }
    }

    /// Whether `If-None-Match` holds for the current tag.
    fn matches_none(&self, current: Option<&str>) -> bool {
        match (&self.if_none_match, current) {
            (None, _) | (Some(_), None) => true,
            (Some(Tags::Any), Some(_)) => false,
            (Some(Tags::These(tags)), Some(current)) => {
                tags.iter().all(|tag| tag.opaque != current)
            }
        }
    }

    /// Whether a resource with this tag may be changed.
    pub(super) fn allow_change(&self, current: Option<&str>) -> bool {
        self.matches(current) && self.matches_none(current)
    }

    /// The response to a read of a resource with this tag, if a precondition fails.
    pub(super) fn check_read(&self, current: &str) -> Result<Option<Response>, Problem> {
        if !self.matches(Some(current)) {
            return Err(failed());
        }
        Ok((!self.matches_none(Some(current))).then(|| {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            set_etag(&mut response, current);
            response
        }))
    }

    /// The check that the store can do on its own, if any.
    fn store_check(&self) -> Option<Option<Expect>> {
        match (&self.if_match, &self.if_none_match) {
            (None, None) => Some(None),
            (None, Some(Tags::Any)) => Some(Some(Expect::Absent)),
            (Some(Tags::These(tags)), None) => match tags.as_slice() {
                [tag] if !tag.is_weak => {
                    let version = version(&tag.opaque)?;
                    Some(Some(Expect::Version(version)))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Runs a write of an entry, if the preconditions hold.
    pub(super) async fn guard<T, W: Future<Output = Result<T, ServiceError>>>(
        &self,
        shared: &SharedServer,
        app: &App,
        (collection, key): (&Collection, &Key),
        write: impl Fn(Option<Expect>) -> W,
    ) -> Result<T, Problem> {
        if let Some(expect) = self.store_check() {
            return Ok(write(expect).await?);
        }
        // A caller who may write may learn whether the entry exists, as with `If-None-Match: *`.
        let host = Caller::new(app, None);
        for _ in 0..ATTEMPTS {
            let entry = shared.host.kv().get(&host, collection, key).await?;
            let version = entry.map(|entry| entry.version);
            let tag = version.map(|version| version.0.to_string());
            if !self.allow_change(tag.as_deref()) {
                return Err(failed());
            }
            let expect = version.map_or(Expect::Absent, Expect::Version);
            match write(Some(expect)).await {
                Err(ServiceError::Conflict { .. }) => {}
                written => return Ok(written?),
            }
        }
        let detail = format!("the entry was changed concurrently {ATTEMPTS} times; try again");
        Err(Problem::new(Kind::Busy, detail).retry_after(Duration::from_secs(1)))
    }
}

/// The version that a tag denotes, if it is in canonical form.
fn version(opaque: &str) -> Option<Version> {
    let version = opaque.parse().ok()?;
    (opaque == format!("{version}")).then_some(Version(version))
}

fn failed() -> Problem {
    Problem::new(
        Kind::PreconditionFailed,
        "the current state does not match If-Match or If-None-Match",
    )
}

pub(super) fn set_etag(response: &mut Response, opaque: &str) {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{opaque}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
}

/// The tags of a header, which may have several lines.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut lines = Vec::new();
    for line in headers.get_all(name) {
        lines.push(line.to_str().map_err(|_| malformed(name))?);
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let tags = parse(&lines.join(",")).ok_or_else(|| malformed(name))?;
    Ok(Some(tags))
}

fn malformed(name: &HeaderName) -> Problem {
    refused(format!(
        "{name} must be * or a list of quoted ETags, such as \"7\""
    ))
}

fn parse(text: &str) -> Option<Tags> {
    if text.trim() == "*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    for tag in EntityTags::new(text) {
        let EntityTag { is_weak, opaque } = tag.ok()?;
        if opaque.contains(' ') {
            return None;
        }
        tags.push(Tag {
            is_weak,
            opaque: opaque.to_owned(),
        });
    }
    (!tags.is_empty()).then_some(Tags::These(tags))
}

/// The tags of a header and whether they are weak; `None` for `*`.
#[cfg(feature = "fuzzing")]
pub fn fuzz_tags(text: &str) -> Option<Vec<(bool, String)>> {
    Some(match parse(text)? {
        Tags::Any => Vec::new(),
        Tags::These(tags) => tags
            .into_iter()
            .map(|tag| (tag.is_weak, tag.opaque))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(if_match: Option<&str>, if_none_match: Option<&str>) -> Preconditions {
        Preconditions {
            if_match: if_match.map(|text| parse(text).unwrap()),
            if_none_match: if_none_match.map(|text| parse(text).unwrap()),
        }
    }

    #[test]
    fn etags_are_compared_as_rfc_9110_says() {
        for (if_match, if_none_match, absent, seven, eight) in [
            (None, None, true, true, true),
            (Some("*"), None, false, true, true),
            (Some("\"7\""), None, false, true, false),
            (Some("\"6\" , \"7\""), None, false, true, false),
            (Some("W/\"7\""), None, false, false, false),
            (None, Some("*"), true, false, false),
            (None, Some("\"7\""), true, false, true),
            (None, Some("W/\"7\",\"8\""), true, false, false),
            (Some("*"), Some("\"7\""), false, false, true),
        ] {
            let given = given(if_match, if_none_match);
            let found = [None, Some("7"), Some("8")].map(|tag| given.allow_change(tag));
            let place = format!("{if_match:?} {if_none_match:?}");
            assert_eq!(found, [absent, seven, eight], "{place}");
        }
    }

    #[test]
    fn malformed_etag_list_is_rejected() {
        for bad in [
            "",
            "7",
            "\"7",
            "7\"",
            "\"7\"\"8\"",
            "*, \"7\"",
            "w/\"7\"",
            "\"a b\"",
            ",",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_canonical_version_numbers_are_accepted() {
        assert_eq!(version("7"), Some(Version(7)));
        for other in ["07", "+7", "", "x", "99999999999999999999"] {
            assert_eq!(version(other), None, "{other}");
        }
    }
}
