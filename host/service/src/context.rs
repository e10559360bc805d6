//! What goes with a call from its door to its commit.

use super::{Caller, Deadline};
use uuid::Uuid;

/// What goes with a call from its door to its commit. The host makes it where a
/// request or a delivery enters; nothing that a guest says changes it.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// On whose behalf, which also says whose rows.
    pub caller: Caller,
    /// The request's id, which the log carries too.
    pub request_id: Uuid,
    /// When the call ends at the latest, and where its time went.
    pub deadline: Deadline,
}
