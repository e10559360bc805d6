//! The words of the system as types, without I/O. Each is parsed once, at the
//! door, and is valid from then on.

mod access;
mod app;
mod batch;
mod cursor;
mod entry;
mod error;
mod json;
mod key;
mod level;
mod limits;
mod list;
mod plugin;
mod registry;
mod token;

pub use access::{Capability, Principal, Scope, UnknownScope};
pub use app::{App, AppId, AppName, AppSettings, Quota, Resource, Usage};
pub use batch::{Applied, Check, Expect, Op, WriteBatch};
pub use cursor::{Cursor, CursorKey};
pub use entry::{Entry, Timestamp, Value, Version};
pub use error::{Invalid, Subject};
pub use json::JsonText;
pub use key::{COLLECTION_BYTES_MAX, Collection, KEY_BYTES_MAX, Key};
pub use level::Level;
pub use limits::Limits;
pub use list::{KeyRange, ListQuery, Page};
pub use plugin::{ActivePlugin, Digest, Exports, Plugin, PluginVersion};
pub use registry::{Audit, Change, Changed, NewPlugin};
pub use token::{BearerToken, SecretHash, Token, TokenId, TokenSecret};
