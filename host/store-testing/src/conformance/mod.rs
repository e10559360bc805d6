//! The conformance suite: properties that every store backend must have.
//!
//! Each public function of the modules below is a property. It gets a [`Kit`] with an empty
//! store and panics on failure. [`conformance!`](crate::conformance!) generates a test of each
//! property for one backend.
//!
//! Random choices come from the kit's seed. A failing test prints its seed;
//! `KVASM_TEST_SEED=<seed>` repeats the choices.

pub mod answers;
pub mod app_deletion;
pub mod app_settings;
pub mod apps;
pub mod audit;
pub mod batches;
pub mod change_log;
pub mod checks;
pub mod clock_repair;
pub mod dead_letters;
pub mod declared_retries;
pub mod deliveries;
pub mod delivery_states;
pub mod dispatchers;
pub mod entries;
pub mod event_kit;
pub mod event_limits;
pub mod expiry;
pub mod expiry_sweep;
pub mod generations;
pub mod get_many;
pub mod grants;
pub mod hosts;
pub mod increments;
pub mod json;
pub mod kit;
pub mod linearizable;
pub mod lists;
pub mod log_segments;
pub mod long_lists;
pub mod loop_guard;
pub mod model;
pub mod outstanding_deliveries;
pub mod pauses;
pub mod plugin_races;
pub mod plugins;
mod properties;
pub mod quotas;
pub mod races;
pub mod rng;
pub mod schedules;
pub mod settings;
pub mod surveys;
pub mod timer_runs;
pub mod timers;
pub mod tokens;
pub mod traces;
pub mod triggers;
pub mod usage;
pub mod versions;
pub mod webhooks;

pub use kit::Kit;

use kvasm_core::store::Store;
use std::any::Any;
use std::sync::Arc;

/// The environment variable that sets the seed of a run.
pub const SEED_VARIABLE: &str = "KVASM_TEST_SEED";

/// An empty store, and what must live as long as it.
pub struct Fixture {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Dropped after the store: a temporary folder, for example.
    pub keep: Box<dyn Any + Send>,
}

/// Runs one property on an empty store.
pub fn run<F: Future<Output = Fixture>, P: Future<Output = ()>>(
    open: impl FnOnce() -> F,
    property: impl FnOnce(Kit) -> P,
) {
    let seed = rng::seed();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let fixture = open().await;
        property(Kit::new(Arc::clone(&fixture.store), seed)).await;
        drop(fixture.store);
        drop(fixture.keep);
    });
}

#[cfg(test)]
mod tests;
