//! Triggers, deliveries and dead letters: `fire` creates deliveries, `queue` processes them,
//! `letters` keeps those that were given up, `triggers` manages what watches changes.

mod fire;
mod letters;
mod outstanding;
mod queue;
mod rescue;
mod row;
mod schedules;
mod standing;
mod triggers;

pub(super) use fire::{Deliveries, Fired, Watchers};
pub(super) use letters::{count, dead_letters, discard, has_letters, prune, replay, spare};
pub(super) use outstanding::{
    count as count_deliveries, discard as discard_deliveries, outstanding,
};
pub(super) use queue::{acknowledge, claim, due, fail, release, renew};
pub(super) use rescue::{needs_rescue, rescue};
pub(super) use schedules::{schedules, tick};
pub(super) use triggers::{declare, delete, pause, set, triggers};
