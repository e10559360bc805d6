//! The deliveries leased by this host, so that it can release them when it stops.

use super::DispatchContext;
use kvasm_core::{AppId, Delivery, DeliveryKey, LeaseToken};
use kvasm_service::error_chain;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Timeout for aborted handlers to end, and then for their deliveries to be released. Later ones
/// are retried when their lease expires.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// The deliveries leased by this host.
#[derive(Default)]
pub(super) struct Leases(Mutex<LeaseState>);

#[derive(Default)]
struct LeaseState {
    receipts: HashMap<(AppId, DeliveryKey), Uuid>,
    /// Once set, no delivery is removed: handlers then end because they are aborted.
    is_stopping: bool,
}

/// A delivery leased by this host, until it is dropped.
pub(super) struct LeaseGuard {
    shared: Arc<DispatchContext>,
    key: (AppId, DeliveryKey),
    lease: Uuid,
}

impl LeaseGuard {
    pub(super) fn new(
        shared: &Arc<DispatchContext>,
        app: AppId,
        delivery: &Delivery,
        lease: Uuid,
    ) -> LeaseGuard {
        let key = (app, delivery.place.clone());
        let mut state = shared.lent.0.lock();
        state.receipts.insert(key.clone(), lease);
        LeaseGuard {
            shared: Arc::clone(shared),
            key,
            lease,
        }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lent.0.lock();
        // A later claim of the same delivery may have replaced it.
        if !state.is_stopping && state.receipts.get(&self.key) == Some(&self.lease) {
            state.receipts.remove(&self.key);
        }
    }
}

impl Leases {
    /// Aborts handlers and releases their deliveries. A commit in progress still counts: its
    /// delivery is then acknowledged, and not released.
    pub(super) async fn abort_and_release(
        &self,
        shared: &DispatchContext,
        mut handlers: JoinSet<()>,
    ) {
        self.0.lock().is_stopping = true;
        handlers.abort_all();
        let ended = async { while handlers.join_next().await.is_some() {} };
        // A handler that does not end loses its lease, and cannot commit.
        drop(tokio::time::timeout(GIVE_BACK, ended).await);
        let receipts = std::mem::take(&mut self.0.lock().receipts);
        let count = receipts.len();
        let given_back = release_all(shared, receipts);
        let released = tokio::time::timeout(GIVE_BACK, given_back).await;
        tracing::warn!(
            handlers = count,
            given_back = released.unwrap_or_default(),
            "aborted handlers that were still running; their deliveries will be retried, and the \
             attempt does not count"
        );
    }
}

/// Releases deliveries, and returns their number.
async fn release_all(
    shared: &DispatchContext,
    receipts: HashMap<(AppId, DeliveryKey), Uuid>,
) -> u64 {
    let mut count = 0;
    for ((app, place), lease) in receipts {
        let receipt = LeaseToken { app, place, lease };
        let now = shared.clock.now();
        match shared.host.store().release(&receipt, now).await {
            Ok(released) => count += u64::from(released),
            Err(error) => {
                let what = format_args!("the release of a delivery of app {app}");
                shared.deliveries.report_skip(&what, &error_chain(&error));
            }
        }
    }
    count
}
