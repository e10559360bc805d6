//! The states of a delivery. `docs/events.md` has the state diagram, and the conformance suite
//! checks each store against it.

/// The state of an outstanding delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Waits for an earlier delivery of its ordering key.
    Waiting,
    /// Can be claimed, now or when its retry is due.
    Pending,
    /// Claimed: a handler runs, or its host has died.
    Leased,
}

impl DeliveryState {
    /// Returns the state in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Pending => "pending",
            DeliveryState::Leased => "leased",
        }
    }
}
