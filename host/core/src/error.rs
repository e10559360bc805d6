//! Why bytes from outside are no value of the model.

use thiserror::Error;

/// What a message is about.
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
    /// Which changes a trigger waits for.
    Changes,
    /// How often a delivery is tried.
    Attempts,
    /// How old a delivery may become, in milliseconds.
    Age,
    /// Keys that are asked for together.
    Keys,
    /// A batch of checks and operations.
    Batch,
    /// The answer to a request.
    Answer,
    /// What a transaction has written so far.
    Transaction,
    /// A dead letter's identity.
    Letter,
}

impl Subject {
    /// Whether it is all that a request brings, rather than a part of it.
    pub fn is_body(self) -> bool {
        match self {
            Subject::Value | Subject::Input | Subject::Module => true,
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
            | Subject::Letter => false,
        }
    }
}

impl Subject {
    /// What it consists of.
    fn unit(self) -> &'static str {
        match self {
            Subject::Scopes => "scope",
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
            Subject::Age => "greatest age in milliseconds",
            Subject::Keys => "list of keys",
            Subject::Batch => "batch",
            Subject::Answer => "answer",
            Subject::Transaction => "transaction",
            Subject::Letter => "identity of a dead letter",
        })
    }
}

/// An argument that is refused. The message names the limit and the value's size,
/// never another app or anything of the host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    /// It may not be empty.
    #[error("the {0} is empty; it needs at least 1 {unit}", unit = .0.unit())]
    Empty(Subject),
    /// It is not UTF-8.
    #[error("the {subject} is not valid UTF-8 at byte {at}")]
    NotUtf8 {
        /// What is not.
        subject: Subject,
        /// The first bad byte.
        at: usize,
    },
    /// It holds U+0000, which Postgres cannot store.
    #[error("the {0} contains a NUL character, which no store can hold in text")]
    Nul(Subject),
    /// It is over its limit.
    #[error("the {subject} is {len} bytes; the limit is {limit} bytes")]
    TooLarge {
        /// What is too large.
        subject: Subject,
        /// Its size in bytes.
        len: u64,
        /// The most it may have.
        limit: u64,
    },
    /// It is not JSON.
    #[error("the value is not valid JSON: {0}")]
    Json(String),
    /// It has a character that its kind of name does not allow.
    #[error("the {subject} contains {found:?}; allowed are {allowed}")]
    Character {
        /// What holds it.
        subject: Subject,
        /// The first character that is not allowed.
        found: char,
        /// Those that are.
        allowed: &'static str,
    },
    /// A number out of its range.
    #[error("the {subject} is {found}; it must be from {min} to {max}")]
    OutOfRange {
        /// What it is.
        subject: Subject,
        /// The number given.
        found: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// It is over its limit, by how much is not known.
    #[error("the {subject} is over the limit of {limit} bytes; ask for less at once")]
    OverTogether {
        /// What is too large.
        subject: Subject,
        /// The most bytes.
        limit: u64,
    },
    /// There are too many of something.
    #[error("the {subject} has {found} parts; the limit is {limit}")]
    TooMany {
        /// What has them.
        subject: Subject,
        /// How many there are.
        found: u64,
        /// The most allowed.
        limit: u64,
    },
    /// Bytes that do not have the form that they must have.
    #[error("the {subject} is malformed: {why}")]
    Malformed {
        /// What is.
        subject: Subject,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is no schedule.
    #[error("{text:?} is no schedule: {why}; a schedule is like \"*/5 * * * *\"")]
    Schedule {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A write that matches more triggers than one write may call.
    #[error(
        "this write would make more than {limit} deliveries, the limit for one write and for all \
         that follows from one change; write fewer entries that triggers watch"
    )]
    Deliveries {
        /// The most deliveries that it may make.
        limit: u32,
    },
    /// A cursor that this list did not give.
    #[error(
        "the cursor was not given by a list of this collection with these options, or it was edited; \
         start the list again without a cursor"
    )]
    ForeignCursor,
}
