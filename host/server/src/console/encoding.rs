//! `Accept-Encoding` (RFC 9110, section 12.5.3).

use axum::http::HeaderValue;

/// Whether a client accepts gzip.
pub(super) fn accepts_gzip<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
    let values = values.into_iter().filter_map(|value| value.to_str().ok());
    let (mut named, mut any) = (None, None);
    for (coding, weight) in values.flat_map(|value| value.split(',')).map(parse) {
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => named = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    // A missing or malformed weight is 1.
    named
        .or(any)
        .is_some_and(|weight| weight.unwrap_or(1.0) > 0.0)
}

fn parse(item: &str) -> (&str, Option<f32>) {
    let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters.trim().strip_prefix("q=");
    let weight = weight.and_then(|weight| weight.trim().parse().ok());
    (coding.trim(), weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_accepted_by_name_or_wildcard_unless_its_weight_is_0() {
        let accepts = |text: &'static str| accepts_gzip([&HeaderValue::from_static(text)]);
        for text in [
            "gzip",
            "br, gzip;q=0.5",
            "GZIP",
            "*",
            "x-gzip",
            "deflate, * ; q=0.1",
        ] {
            assert!(accepts(text), "{text}");
        }
        for text in [
            "",
            "br",
            "gzip;q=0",
            "*;q=0",
            "gzip;q=0, *",
            "identity",
            "gzipped",
        ] {
            assert!(!accepts(text), "{text}");
        }
        assert!(!accepts_gzip([]));
    }
}
