//! The domain types, without I/O. Each is parsed once, where it enters the system, and is valid
//! from then on.
#![deny(missing_docs)]

mod access;
mod answer;
mod app;
mod batch;
mod call_cost;
mod cost;
mod cursor;
mod dead_letter;
mod delivery;
mod delivery_state;
mod entry;
mod grant;
mod invalid;
mod json;
mod key;
mod level;
mod limits;
mod link;
mod list;
mod needs;
mod origin;
mod origin_pattern;
mod pieces;
mod plugin;
mod records;
mod schedule;
mod settings;
pub mod store;
mod target;
mod text;
mod timer;
mod token;
mod trace;
mod trigger;
mod trigger_health;

pub use access::{Capability, Principal, Scope, UnknownScope};
pub use answer::{
    ANSWER_BYTES, ANSWER_OUTPUT_BYTES_MAX, ANSWERS_MAX, ANSWERS_OF_RANGE_MAX, AnswerId,
    AnswerScope, IdempotencyKey, KeptAnswer, RequestHash, RequestHasher,
};
pub use app::{App, AppId, AppLimits, AppName, LimitsPatch, Quota, Resource, Usage};
pub use batch::{Applied, Batch, Check, Commit, Committed, Expect, Op};
pub use call_cost::Cost;
pub use cost::share;
pub use cost::{
    DELIVERIES_MAX, DELIVERIES_PER_WRITE_MAX, DELIVERY_BYTES, ENTRY_BYTES, TRIGGERED_DELIVERIES_MAX,
};
pub use cursor::{Cursor, CursorKey};
pub use dead_letter::{DeadLetter, DeadLetterFilter, Replay};
pub use delivery::{
    Claim, DEPTH_MAX, DeadReason, Delivery, DeliveryFilter, DeliveryKey, Event, EventKind,
    FailOutcome, FailedAttempt, LeaseToken, Queue, ScheduleTick, TriggerDeletion, Verdict,
    ordering_key_of,
};
pub use delivery_state::DeliveryState;
pub use entry::{Entry, IncrementError, Timestamp, Value, Version, increment};
pub use grant::room_for_grants;
pub use grant::{GRANTS_MAX, Grant, Granted, NotPermitted, Permissions, Use};
pub use invalid::{Invalid, Subject};
pub use json::{Integer, JsonText};
pub use key::{COLLECTION_BYTES_MAX, Collection, KEY_BYTES_MAX, Key};
pub use level::Level;
pub use limits::{Limits, LimitsError};
pub use link::{CommitId, Follow, Link};
pub use list::{KeyRange, ListPage, ListQuery};
pub use needs::{
    ConfigNeed, ConfigType, DESCRIPTION_BYTES_MAX, NEEDS_BYTES_MAX, NEEDS_MAX, NeedChanges, Needs,
    SecretNeed, Unmet,
};
pub use origin::{HostName, HttpOrigin, HttpUrl, ORIGIN_BYTES_MAX, Scheme, URL_BYTES_MAX};
pub use origin_pattern::OriginPattern;
pub use pieces::Pieces;
pub use plugin::room_for_version;
pub use plugin::{
    ActivePlugin, Digest, Exports, PluginRecord, PluginVersion, VERSION_BYTES_MAX, VERSIONS_MAX,
};
pub use records::{Audit, Generation, NewPlugin};
pub use schedule::Schedule;
pub use settings::room_for_settings;
pub use settings::{
    ConfigValue, KeyId, Resealed, SETTING_BYTES_MAX, SETTINGS_BYTES_MAX, SETTINGS_MAX,
    SealedSecret, Setting, SettingKind, SettingName, SettingValue, Settings,
};
pub use target::{DeliveryTarget, Target, Webhook};
pub use text::{display_truncated, truncate};
pub use timer::{
    NewTimer, TIMER_BYTES_MAX, TIMER_TRIGGER, TimerName, TimerOp, TimerTime, is_unexpected,
    timer_declaration, timer_ordering_key, timer_trigger,
};
pub use token::{BearerToken, SecretHash, TOKENS_MAX, Token, TokenId, TokenSecret};
pub use trace::{TRACE_STATE_BYTES_MAX, TRACE_STATE_MEMBERS_MAX, TraceContext, TraceId};
pub use trigger::{
    Changes, DeclaredTrigger, DueSchedule, NewTrigger, Origin, Policy, SchedulePosition,
    TRIGGERS_MAX, Trigger, TriggerName, Watch,
};
pub use trigger_health::{Claimable, with_jitter};
pub use trigger_health::{
    FAILURES_MAX, PROBE_AFTER, PROBE_WAIT_MAX, Pause, ProbeDelay, TriggerHealth,
};
