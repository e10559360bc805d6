//! Triggers, deliveries and dead letters: `fire` makes deliveries, `queue` carries
//! them on, `letters` keeps those that were given up, `triggers` says who watches.

mod fire;
mod letters;
mod queue;
mod row;
mod triggers;

pub(super) use fire::{Deliveries, Fired, Watchers};
pub(super) use letters::{count, dead_letters, discard, has_letters, prune, replay, spare};
pub(super) use queue::{acknowledge, claim, deliveries, due, fail, renew, schedules, tick};
pub(super) use triggers::{declare, delete, pause, set, triggers};
