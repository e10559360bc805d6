//! Why input is not a valid value of the model.

use super::{ConfigType, SettingName};
use kvasm_abi::names::TextError;
use thiserror::Error;

/// The input that an error message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// An app's name.
    AppName,
    /// A collection's name.
    Collection,
    /// An entry's key.
    Key,
    /// The prefix of a list.
    Prefix,
    /// The start or end of a list's range.
    Bound,
    /// An entry's value.
    Value,
    /// A cursor.
    Cursor,
    /// An entry's time to live, in milliseconds.
    TimeToLive,
    /// The number of entries in a page.
    PageLimit,
    /// A function's name.
    Function,
    /// The input of an invocation.
    Input,
    /// The output of an invocation.
    Output,
    /// A plugin's module.
    Module,
    /// A token's name.
    TokenName,
    /// A token's scopes.
    Scopes,
    /// A trigger's name.
    Trigger,
    /// An app's triggers.
    Triggers,
    /// The changes that a trigger watches.
    Changes,
    /// The number of attempts of a delivery.
    Attempts,
    /// The maximum age of a delivery, in milliseconds.
    Age,
    /// Keys that are read together.
    Keys,
    /// A batch of checks and operations.
    Batch,
    /// The answer to a request.
    Answer,
    /// The writes of a transaction so far.
    Transaction,
    /// A dead letter's identity.
    Letter,
    /// A timer's name.
    Timer,
    /// When a timer is due: a Unix time, or a duration, in milliseconds.
    TimerTime,
    /// A timer's payload.
    Payload,
    /// The name of a configuration value or a secret.
    SettingName,
    /// A configuration value.
    ConfigValue,
    /// A secret.
    Secret,
    /// The origin of an HTTP server, or a pattern of origins.
    Origin,
    /// The URL of an outbound request.
    Url,
    /// An outbound request.
    Request,
    /// Grants that are added or revoked together.
    Grants,
    /// The idempotency key of a call.
    IdempotencyKey,
}

impl Subject {
    /// Returns whether it is a whole request body, rather than a part of it.
    pub fn is_body(self) -> bool {
        match self {
            Subject::Value
            | Subject::Input
            | Subject::Module
            | Subject::ConfigValue
            | Subject::Secret => true,
            Subject::AppName
            | Subject::Collection
            | Subject::Key
            | Subject::Prefix
            | Subject::Bound
            | Subject::Cursor
            | Subject::TimeToLive
            | Subject::PageLimit
            | Subject::Function
            | Subject::Output
            | Subject::TokenName
            | Subject::Scopes
            | Subject::Trigger
            | Subject::Triggers
            | Subject::Changes
            | Subject::Attempts
            | Subject::Age
            | Subject::Keys
            | Subject::Batch
            | Subject::Answer
            | Subject::Transaction
            | Subject::Letter
            | Subject::SettingName
            | Subject::Origin
            | Subject::Url
            | Subject::Request
            | Subject::Grants
            | Subject::IdempotencyKey
            | Subject::Timer
            | Subject::TimerTime
            | Subject::Payload => false,
        }
    }
}

impl Subject {
    /// Returns the unit in which it is counted.
    fn unit(self) -> &'static str {
        match self {
            Subject::Scopes => "scope",
            Subject::Grants => "grant",
            _ => "byte",
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Subject::AppName => "app name",
            Subject::Collection => "collection",
            Subject::Key => "key",
            Subject::Prefix => "prefix",
            Subject::Bound => "range bound",
            Subject::Value => "value",
            Subject::Cursor => "cursor",
            Subject::TimeToLive => "time to live in milliseconds",
            Subject::PageLimit => "page limit",
            Subject::Function => "function name",
            Subject::Input => "input",
            Subject::Output => "output",
            Subject::Module => "module",
            Subject::TokenName => "token name",
            Subject::Scopes => "list of scopes",
            Subject::Trigger => "trigger name",
            Subject::Triggers => "list of triggers",
            Subject::Changes => "list of changes",
            Subject::Attempts => "number of attempts",
            Subject::Age => "maximum age in milliseconds",
            Subject::Keys => "list of keys",
            Subject::Batch => "batch",
            Subject::Answer => "answer",
            Subject::Transaction => "transaction",
            Subject::Letter => "dead letter ID",
            Subject::Timer => "timer name",
            Subject::TimerTime => "time of a timer in milliseconds",
            Subject::Payload => "payload",
            Subject::SettingName => "name of the setting",
            Subject::ConfigValue => "configuration value",
            Subject::Secret => "secret",
            Subject::Origin => "origin",
            Subject::Url => "URL",
            Subject::Request => "request",
            Subject::Grants => "list of grants",
            Subject::IdempotencyKey => "idempotency key",
        })
    }
}

/// An argument that was rejected. The message names the limit and the size of the value, never
/// anything of another app or of the host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    /// It is empty.
    #[error("the {0} is empty; it needs at least 1 {unit}", unit = .0.unit())]
    Empty(Subject),
    /// It is not UTF-8.
    #[error("{}", TextError::NotUtf8 { at: *at }.about(subject))]
    NotUtf8 {
        /// The input.
        subject: Subject,
        /// The offset of the first invalid byte.
        at: usize,
    },
    /// It contains U+0000, which Postgres cannot store.
    #[error("{}", TextError::Nul.about(.0))]
    Nul(Subject),
    /// It exceeds its limit.
    #[error("{}", TextError::TooLarge { len: *len, limit: *limit }.about(subject))]
    TooLarge {
        /// The input.
        subject: Subject,
        /// Its size in bytes.
        len: u64,
        /// The maximum, in bytes.
        limit: u64,
    },
    /// It is not JSON.
    #[error("the value is not valid JSON: {0}")]
    Json(String),
    /// It contains a character that is not allowed in such a name.
    #[error("the {subject} contains {found:?}; allowed: {allowed}")]
    Character {
        /// The input.
        subject: Subject,
        /// The first character that is not allowed.
        found: char,
        /// The allowed characters.
        allowed: &'static str,
    },
    /// A number is out of range.
    #[error("the {subject} is {found}; it must be from {min} to {max}")]
    OutOfRange {
        /// The input.
        subject: Subject,
        /// The given number.
        found: u64,
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
    /// It exceeds its limit, by an unknown amount.
    #[error("the {subject} exceeds the limit of {limit} bytes; request less at once")]
    OverTogether {
        /// The input.
        subject: Subject,
        /// The maximum, in bytes.
        limit: u64,
    },
    /// It has too many parts.
    #[error("the {subject} has {found} parts; the limit is {limit}")]
    TooMany {
        /// The input.
        subject: Subject,
        /// The number of parts.
        found: u64,
        /// The maximum.
        limit: u64,
    },
    /// It does not have the required form.
    #[error("the {subject} is malformed: {why}")]
    Malformed {
        /// The input.
        subject: Subject,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is a configuration value that is not of the type that the active plugin version declares.
    #[error(
        "the active plugin version declares the configuration value {name} with the type {expected}; \
         set {}",
        .expected.values()
    )]
    ConfigType {
        /// Its name.
        name: SettingName,
        /// The declared type.
        expected: ConfigType,
    },
    /// It is not a valid schedule.
    #[error("{text:?} is not a schedule: {why}; example: \"*/5 * * * *\"")]
    Schedule {
        /// The given text.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is not an origin, or not a pattern of origins.
    #[error(
        "{text:?} is not an origin: {why}; examples: \"https://api.example.com\", \
         \"https://*.example.com:8443\""
    )]
    Origin {
        /// The start of the given text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is not a URL of an HTTP server.
    #[error("{text:?} is not a URL to fetch: {why}")]
    Url {
        /// The start of the given text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A write that would create too many deliveries.
    #[error(
        "this write would create more than {limit} deliveries, the limit for one write and for all \
         that follows from one change; write fewer entries that triggers watch"
    )]
    Deliveries {
        /// The maximum number of deliveries.
        limit: u32,
    },
    /// A cursor that was not returned by this list.
    #[error("{}", kvasm_abi::FOREIGN_CURSOR)]
    ForeignCursor,
}

impl Invalid {
    /// Checks the number of parts of an input.
    ///
    /// # Errors
    /// [`Invalid::TooMany`] above the limit.
    pub fn check_count(subject: Subject, found: usize, limit: usize) -> Result<(), Invalid> {
        if found > limit {
            return Err(Invalid::TooMany {
                subject,
                found: found as u64,
                limit: limit as u64,
            });
        }
        Ok(())
    }

    /// Returns the error about a subject.
    pub(crate) fn text(subject: Subject, error: TextError) -> Invalid {
        match error {
            TextError::Empty => Invalid::Empty(subject),
            TextError::TooLarge { len, limit } => Invalid::TooLarge {
                subject,
                len,
                limit,
            },
            TextError::NotUtf8 { at } => Invalid::NotUtf8 { subject, at },
            TextError::Nul => Invalid::Nul(subject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_abi::json::JsonError;

    /// The SDK's in-process host answers with the messages of `kvasm-abi`.
    #[test]
    fn messages_are_those_of_the_abi() {
        for (error, message) in [
            (
                TextError::Empty,
                "the key is empty; it needs at least 1 byte",
            ),
            (
                TextError::TooLarge {
                    len: 1025,
                    limit: 1024,
                },
                "the key is 1025 bytes; the limit is 1024 bytes",
            ),
            (
                TextError::NotUtf8 { at: 1 },
                "the key is not valid UTF-8 at byte 1",
            ),
            (
                TextError::Nul,
                "the key contains a NUL character, which cannot be stored in text",
            ),
        ] {
            assert_eq!(error.about("key").to_string(), message);
            assert_eq!(Invalid::text(Subject::Key, error).to_string(), message);
        }
        let why = "EOF while parsing a value at line 1 column 0".to_owned();
        assert_eq!(
            Invalid::Json(why.clone()).to_string(),
            JsonError::Malformed(why).to_string()
        );
        assert_eq!(
            Invalid::Empty(Subject::Scopes).to_string(),
            "the list of scopes is empty; it needs at least 1 scope"
        );
    }
}
