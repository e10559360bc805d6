//! docs/errors.md lists every error of the SDK, with its status, and every reason to refuse a module.

use super::files;
use super::markdown;
use kvasm_guest::Error;
use kvasm_guest::http::{BadRequest, HttpError};

/// A variant of the error.
type Variant = fn(String) -> Error;

/// The lines of an enum.
fn body_of<'t>(source: &'t str, head: &str) -> &'t str {
    let (_, rest) = source.split_once(head).expect("the enum");
    let (body, _) = rest.split_once("\n}\n").expect("its end");
    body
}

#[test]
fn every_error_of_the_sdk_is_explained_with_its_status() {
    let source = files::one("guest-sdk/src/error.rs").text;
    let variants: Vec<&str> = body_of(&source, "pub enum Error {\n")
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_suffix("),")?
                .split_once('(')
                .map(|(name, _)| name)
        })
        .collect();
    let known: [(&str, Variant); 15] = [
        ("NotFound", Error::NotFound),
        ("Conflict", Error::Conflict),
        ("Denied", Error::Denied),
        ("Invalid", Error::Invalid),
        ("TooLarge", Error::TooLarge),
        ("Quota", Error::Quota),
        ("RateLimited", Error::RateLimited),
        ("Type", Error::Type),
        ("Unavailable", Error::Unavailable),
        ("Internal", Error::Internal),
        ("Unsupported", Error::Unsupported),
        ("Remote", Error::Remote),
        ("Encode", Error::Encode),
        ("Decode", Error::Decode),
        ("BadRequest", |text| {
            Error::BadRequest(BadRequest::new(text))
        }),
    ];
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    assert_eq!(variants, names);
    let page = files::one("docs/errors.md").text;
    let rows = markdown::table(&page, &["variant", "status", "cause"]);
    let rows = rows.iter().map(|row| {
        let status = row[1].split(',').next().unwrap_or_default();
        (markdown::plain(&row[0]), status.to_owned())
    });
    let expected = known.iter().map(|(name, error)| {
        let status = HttpError::from(error(String::new())).status();
        (*name, status.to_string())
    });
    let (rows, expected): (Vec<_>, Vec<_>) = (rows.collect(), expected.collect());
    assert_eq!(rows, expected);
}

/// The fixed start of each message of an enum of errors, in the form `#[error("...")]`.
fn messages(body: &str) -> Vec<String> {
    let attributes = body.split("#[error(").skip(1);
    let start = |attribute: &str| {
        let (_, text) = attribute.split_once('"')?;
        let text = text.split(['{', ';']).next()?.replace("\\\"", "\"");
        let text = text.split("\")]").next()?.split("\"\n").next()?.trim();
        (text.len() > 8).then(|| text.to_owned())
    };
    attributes.filter_map(start).collect()
}

#[test]
fn every_reason_to_refuse_a_module_is_explained() {
    let source = files::one("host/runtime/src/error.rs").text;
    let messages = messages(body_of(&source, "pub enum LoadError {\n"));
    assert!(messages.len() >= 15, "{messages:?}");
    let page = files::one("docs/errors.md").text;
    let rows = markdown::table(&page, &["message", "what to do"]);
    for message in messages {
        let message = message.trim_end_matches([' ', ':', '(']);
        let is_there = rows.iter().any(|row| row[0].contains(message));
        assert!(is_there, "docs/errors.md does not explain {message:?}");
    }
}

#[test]
fn messages_are_found() {
    let body = "#[error(\"it is the first {0:?}: two\")]\nA,\n#[error(transparent)]\nB,\n\
                #[error(\n  \"it is the second; three\"\n)]\nC, #[error(\"a \\\"b\\\" is malformed\")] D";
    assert_eq!(
        messages(body),
        [
            "it is the first",
            "it is the second",
            "a \"b\" is malformed"
        ]
    );
}
