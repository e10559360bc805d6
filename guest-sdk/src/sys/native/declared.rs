//! What the plugin declares that it needs. The harness fills it in; without one, nothing is
//! checked. The app grants all that is declared.

use super::urls::canonical_origin;
use super::with;
use crate::Error;
use std::collections::{BTreeMap, BTreeSet};

/// The needs of a plugin.
#[derive(Debug, Default)]
pub(crate) struct DeclaredNeeds {
    /// Patterns of origins, such as `https://*.example.com`.
    pub(crate) origins: Vec<String>,
    pub(crate) secrets: BTreeSet<String>,
    /// The defaults of configuration values, as text.
    pub(crate) defaults: BTreeMap<String, String>,
    pub(crate) timers: bool,
    /// Whether there is a handler of timers.
    pub(crate) handles_timers: bool,
}

/// Checks uses against these needs from now on.
pub(crate) fn declare(needs: DeclaredNeeds) {
    with(|host| host.needs = Some(needs));
}

fn check(
    is_declared: impl FnOnce(&DeclaredNeeds) -> bool,
    what: impl FnOnce() -> String,
) -> Result<(), Error> {
    if with(|host| host.needs.as_ref().is_none_or(is_declared)) {
        return Ok(());
    }
    Err(Error::Denied(format!(
        "not permitted: the plugin does not declare that it needs {}; declare it and deploy the \
         plugin again",
        what()
    )))
}

pub(super) fn require_timers() -> Result<(), Error> {
    if !with(|host| host.needs.as_ref().is_none_or(|needs| needs.handles_timers)) {
        return Err(Error::Invalid(
            "the plugin has no handler of timers; declare one with #[kvasm_guest::on_timer], or as \
             the kind on_timer in its manifest"
                .to_owned(),
        ));
    }
    check(|needs| needs.timers, || "timers".to_owned())
}

pub(super) fn require_secret(name: &str) -> Result<(), Error> {
    check(
        |needs| needs.secrets.contains(name),
        || format!("the secret {name:?}"),
    )
}

/// Checks an origin as [`url_origin`](super::urls::url_origin) returns it.
pub(super) fn require_origin(origin: &str) -> Result<(), Error> {
    check(
        |needs| needs.origins.iter().any(|pattern| matches(pattern, origin)),
        || format!("HTTP requests to {origin}"),
    )
}

pub(super) fn default_of(name: &str) -> Option<Vec<u8>> {
    with(|host| {
        let default = host.needs.as_ref()?.defaults.get(name)?;
        Some(default.clone().into_bytes())
    })
}

fn matches(pattern: &str, found: &str) -> bool {
    let pattern = canonical_origin(pattern);
    let Some((scheme, parent)) = pattern.split_once("*.") else {
        return pattern == found;
    };
    let label = found.strip_prefix(scheme);
    let label = label.and_then(|rest| rest.strip_suffix(parent)?.strip_suffix('.'));
    label.is_some_and(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::urls::url_origin;
    use super::*;

    #[test]
    fn origin_matches_its_pattern() {
        let is_match = |pattern, url| matches(pattern, &url_origin(url).unwrap());
        assert!(is_match("https://a.test", "https://A.test:443/x?y"));
        assert!(is_match("http://a.test:8080", "http://a.test:8080"));
        assert!(is_match("https://*.a.test", "https://b.c.a.test/"));
        for (pattern, url) in [
            ("https://a.test", "http://a.test"),
            ("https://a.test", "https://b.a.test"),
            ("https://*.a.test", "https://a.test"),
            ("https://*.a.test", "https://xa.test"),
            ("http://a.test", "http://a.test:8080"),
        ] {
            assert!(!is_match(pattern, url), "{pattern} {url}");
        }
    }
}
