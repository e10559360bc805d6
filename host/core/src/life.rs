//! The states of a delivery. `docs/events.md` draws what leads from one to another, and
//! the conformance suite compares each store with it.

/// Where an outstanding delivery is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Behind an earlier one of its chain.
    Waiting,
    /// To be claimed, now or when its retry is due.
    Pending,
    /// Claimed: a handler runs, or its host has died.
    Leased,
}

impl DeliveryState {
    /// The state in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Pending => "pending",
            DeliveryState::Leased => "leased",
        }
    }
}
