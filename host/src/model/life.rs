//! The states of a delivery and what leads from one to another. `docs/events.md`
//! draws them, and a test compares.

/// Where a delivery is in its life. `docs/events.md` draws it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Behind an earlier one of its chain.
    Waiting,
    /// To be claimed, now or when its retry is due.
    Pending,
    /// Claimed: a handler runs, or its host has died.
    Leased,
    /// Done, in the commit of its handler. The row is gone.
    Delivered,
    /// Given up; a dead letter.
    Dead,
    /// An operator has discarded it, as a delivery or as a dead letter, or the dead
    /// letter has grown too old.
    Discarded,
}

/// What can happen to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryStep {
    /// The one before it in its chain is done or given up.
    Wake,
    /// A host claims it.
    Claim,
    /// The lease runs out before the handler ends.
    Expire,
    /// The handler's commit takes it along.
    Acknowledge,
    /// The handler has failed and may succeed later.
    Retry,
    /// The handler has failed once too often, or must not run at all.
    GiveUp,
    /// An operator sends a dead letter again.
    Replay,
    /// The host that runs it stops and gives it back; the attempt does not count.
    Release,
    /// An operator discards it, or the time of a dead letter is up.
    Discard,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [DeliveryState; 6] = [
        DeliveryState::Waiting,
        DeliveryState::Pending,
        DeliveryState::Leased,
        DeliveryState::Delivered,
        DeliveryState::Dead,
        DeliveryState::Discarded,
    ];

    /// The state in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Pending => "pending",
            DeliveryState::Leased => "leased",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Dead => "dead",
            DeliveryState::Discarded => "discarded",
        }
    }

    /// The state after a step; none if it cannot be taken here.
    pub const fn after(self, step: DeliveryStep) -> Option<DeliveryState> {
        use DeliveryState::{Dead, Delivered, Discarded, Leased, Pending, Waiting};
        use DeliveryStep::{
            Acknowledge, Claim, Discard, Expire, GiveUp, Release, Replay, Retry, Wake,
        };
        match (self, step) {
            (Waiting, Wake) => Some(Pending),
            (Pending, Claim) => Some(Leased),
            (Leased, Expire | Retry | Release) => Some(Pending),
            (Leased, Acknowledge) => Some(Delivered),
            (Leased, GiveUp) => Some(Dead),
            (Dead, Replay) => Some(Pending),
            (Waiting | Pending | Leased | Dead, Discard) => Some(Discarded),
            _ => None,
        }
    }
}

impl DeliveryStep {
    /// Every step.
    pub const ALL: [DeliveryStep; 9] = [
        DeliveryStep::Wake,
        DeliveryStep::Claim,
        DeliveryStep::Expire,
        DeliveryStep::Acknowledge,
        DeliveryStep::Retry,
        DeliveryStep::GiveUp,
        DeliveryStep::Replay,
        DeliveryStep::Release,
        DeliveryStep::Discard,
    ];

    /// The step in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeliveryStep::Wake => "wake",
            DeliveryStep::Claim => "claim",
            DeliveryStep::Expire => "expire",
            DeliveryStep::Acknowledge => "acknowledge",
            DeliveryStep::Retry => "retry",
            DeliveryStep::GiveUp => "give up",
            DeliveryStep::Replay => "replay",
            DeliveryStep::Release => "release",
            DeliveryStep::Discard => "discard",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_delivered_or_discarded_stays_so() {
        for step in DeliveryStep::ALL {
            assert_eq!(DeliveryState::Delivered.after(step), None);
            assert_eq!(DeliveryState::Discarded.after(step), None);
        }
    }

    #[test]
    fn every_state_can_be_reached_and_every_step_taken() {
        let mut reached = vec![DeliveryState::Waiting];
        let mut at = 0;
        let mut taken = std::collections::HashSet::new();
        while let Some(state) = reached.get(at).copied() {
            at += 1;
            for step in DeliveryStep::ALL {
                if let Some(next) = state.after(step) {
                    taken.insert(step);
                    if !reached.contains(&next) {
                        reached.push(next);
                    }
                }
            }
        }
        assert_eq!(reached.len(), DeliveryState::ALL.len());
        assert_eq!(taken.len(), DeliveryStep::ALL.len());
    }
}
