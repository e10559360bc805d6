//! Triggers, deliveries and dead letters: `fire` creates deliveries, `queue` processes them,
//! `letters` keeps those that were given up, `triggers` manages what watches changes.

mod clock_repair;
mod dead_letters;
mod fire;
mod outstanding;
mod queue;
mod row;
mod schedules;
mod trigger_health;
mod triggers;

pub(super) use clock_repair::{needs_rescue, rescue};
pub(super) use dead_letters::{count, dead_letters, discard, has_letters, prune, replay, spare};
pub(super) use fire::{Deliveries, Fired, Watchers};
pub(super) use outstanding::{
    count as count_deliveries, discard as discard_deliveries, outstanding,
};
pub(super) use queue::{acknowledge, claim, due, fail, release, renew};
pub(super) use schedules::{schedules, tick};
pub(super) use triggers::{declare, delete, pause, set, triggers};
