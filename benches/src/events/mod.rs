//! Batches, transactions, triggers and deliveries, on SQLite and on Postgres.

mod batch;
mod claim;
mod delivery;
mod stage;
mod timers;
mod transaction;
mod trigger;

pub use batch::measure as batches;
pub use claim::measure as claims;
pub use delivery::measure as deliveries;
pub use stage::{Engine, database, manifest, store};
pub use timers::measure as timers;
pub use transaction::measure as transactions;
pub use trigger::measure as triggers;
