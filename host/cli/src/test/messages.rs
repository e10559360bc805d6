//! What the harness in a test's process and the host of that test say to each other: one JSON object
//! a line. Bytes are in hexadecimal. `guest-sdk/src/testing/remote` has the other side.

use kvasm::api::CostView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::Uuid;

/// What the harness asks for.
#[derive(Deserialize)]
pub(super) struct HarnessRequest {
    /// The time of the test's clock, at which it is done.
    pub(super) now_ms: i64,
    /// The faults to come while it is done.
    #[serde(default)]
    pub(super) faults: FaultPlan,
    #[serde(flatten)]
    pub(super) action: HarnessAction,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum HarnessAction {
    /// Opens the store in a folder, and deploys the module if it is new. The first request.
    Open {
        folder: PathBuf,
    },
    /// Calls a function, or the HTTP handler.
    Call {
        function: Option<String>,
        #[serde(with = "hex::serde")]
        input: Vec<u8>,
        /// Whether the caller has a token, with all scopes.
        is_principal: bool,
    },
    /// Commits what the test has written, each batch atomically.
    Write {
        batches: Vec<Vec<HarnessWrite>>,
    },
    /// Returns what the store holds.
    State,
    /// Runs what is due until a time, each at its time.
    RunUntil {
        until_ms: i64,
    },
    /// Runs handlers until no delivery is outstanding.
    Settle,
    /// Queues all dead letters again.
    Replay,
    Quota {
        entries: Option<u64>,
        bytes: Option<u64>,
    },
    Config {
        name: String,
        value: String,
    },
    Secret {
        name: String,
        #[serde(with = "hex::serde")]
        secret: Vec<u8>,
    },
    /// Answers [`HarnessLine::Fetch`].
    Fetched(FetchAnswer),
    /// Closes the store and ends.
    Stop,
}

/// The operations of the plugin that fail, counted from 1.
#[derive(Deserialize, Default)]
pub(super) struct FaultPlan {
    pub(super) failures: BTreeMap<u64, PlannedError>,
    /// How many operations that check versions are in conflict.
    pub(super) conflicts: u32,
    /// The operation after which the host ends.
    pub(super) crash_after: Option<u64>,
}

/// An error of the SDK.
#[derive(Deserialize, Clone)]
pub(super) struct PlannedError {
    /// The name of its variant.
    pub(super) kind: String,
    pub(super) message: String,
}

/// A change that the test makes.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HarnessWrite {
    Set {
        collection: String,
        key: String,
        #[serde(with = "hex::serde")]
        value: Vec<u8>,
        is_json: bool,
        expires_at_ms: Option<i64>,
    },
    Delete {
        collection: String,
        key: String,
    },
    TimerSet {
        name: String,
        at_ms: i64,
        #[serde(with = "hex::serde")]
        payload: Vec<u8>,
    },
    TimerCancel {
        name: String,
    },
    Replay {
        letter: Uuid,
    },
}

/// The response of the test to a request of the plugin.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FetchAnswer {
    Response {
        status: u16,
        headers: Vec<(String, String)>,
        #[serde(with = "hex::serde")]
        body: Vec<u8>,
    },
    Error(PlannedError),
}

/// What the host answers. `Done` and `Refused` end a request.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HarnessLine {
    /// A line of the plugin's log.
    Log(String),
    /// The plugin sends a request to another server.
    Fetch {
        method: String,
        url: String,
        headers: Vec<(String, String)>,
        #[serde(with = "hex::serde")]
        body: Vec<u8>,
        timeout_ms: Option<u64>,
    },
    /// A handler starts.
    Started(String),
    /// It has succeeded.
    Succeeded,
    /// It has failed.
    Failed(String),
    /// The host ends, as the test asked for; the time of its clock.
    Crashed(i64),
    Done(Box<HarnessAnswer>),
    /// Why it cannot be done, which fails the test.
    Refused(String),
}

/// What an action returns.
#[derive(Serialize, Default)]
pub(super) struct HarnessAnswer {
    /// The time of the clock after it.
    pub(super) now_ms: i64,
    /// The number of operations of the plugin, and of the conflicts among them.
    pub(super) operations: u64,
    pub(super) conflicts: u32,
    /// For each batch, the versions of the entries that it has set.
    pub(super) versions: Vec<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<CallEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<HarnessState>,
}

/// How a call ended.
#[derive(Serialize)]
pub(super) struct CallEnd {
    /// `returned`, `refused`, `failed`, `trapped` or `not_committed`.
    pub(super) how: &'static str,
    /// The output, if it has returned.
    #[serde(with = "hex::serde")]
    pub(super) output: Vec<u8>,
    /// The message of a failure.
    pub(super) message: String,
    /// The variant of the SDK's error, if it was not committed.
    pub(super) error: &'static str,
    pub(super) cost: CostView,
}

/// What the store of an app holds.
#[derive(Serialize, Default)]
pub(super) struct HarnessState {
    pub(super) entries: Vec<HarnessEntry>,
    /// The deliveries that are not done, in the order of their events.
    pub(super) queue: Vec<HarnessDelivery>,
    pub(super) timers: Vec<HarnessTimer>,
    /// Oldest first, as `kvasm_guest::dead_letters::DeadLetter` reads them.
    pub(super) dead: Vec<serde_json::Value>,
}

#[derive(Serialize)]
pub(super) struct HarnessEntry {
    pub(super) collection: String,
    pub(super) key: String,
    #[serde(with = "hex::serde")]
    pub(super) value: Vec<u8>,
    pub(super) is_json: bool,
    pub(super) version: u64,
    pub(super) expires_at_ms: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct HarnessDelivery {
    pub(super) handler: String,
    pub(super) event_id: String,
    /// The entry that has changed, unless a schedule or a timer is due.
    pub(super) changed: Option<(String, String, u64)>,
}

#[derive(Serialize)]
pub(super) struct HarnessTimer {
    pub(super) name: String,
    pub(super) at_ms: i64,
    #[serde(with = "hex::serde")]
    pub(super) payload: Vec<u8>,
    pub(super) attempts: u32,
}
