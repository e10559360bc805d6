//! The deliveries that are lent to this host, so that it can give them back when it
//! stops.

use super::Shared;
use kvasm_core::{AppId, Delivery, Place, Receipt};
use kvasm_service::chain;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How long handlers that are cut off may take to end, and then, their deliveries to be
/// given back. What is not given back by then is when its lease runs out.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// The deliveries that are lent to this host.
#[derive(Default)]
pub(super) struct Lent(Mutex<State>);

#[derive(Default)]
struct State {
    receipts: HashMap<(AppId, Place), Uuid>,
    /// From then on nothing is taken out: handlers that end do so because they are cut
    /// off.
    is_stopping: bool,
}

/// A delivery that is lent to this host, until it is dropped.
pub(super) struct Loan {
    shared: Arc<Shared>,
    key: (AppId, Place),
    lease: Uuid,
}

impl Loan {
    pub(super) fn new(shared: &Arc<Shared>, app: AppId, delivery: &Delivery, lease: Uuid) -> Loan {
        let key = (app, delivery.place.clone());
        let mut state = shared.lent.0.lock();
        state.receipts.insert(key.clone(), lease);
        Loan {
            shared: Arc::clone(shared),
            key,
            lease,
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut state = self.shared.lent.0.lock();
        // A later claim of the same delivery may have taken its place.
        if !state.is_stopping && state.receipts.get(&self.key) == Some(&self.lease) {
            state.receipts.remove(&self.key);
        }
    }
}

impl Lent {
    /// Cuts handlers off and gives back the deliveries that they ran. A commit that was
    /// already on its way counts: its delivery is gone then, and is not given back.
    pub(super) async fn cut_off(&self, shared: &Shared, mut handlers: JoinSet<()>) {
        self.0.lock().is_stopping = true;
        handlers.abort_all();
        let ended = async { while handlers.join_next().await.is_some() {} };
        // One that does not end loses its lease, and can commit nothing.
        drop(tokio::time::timeout(GIVE_BACK, ended).await);
        let receipts = std::mem::take(&mut self.0.lock().receipts);
        let count = receipts.len();
        let given_back = give_back(shared, receipts);
        let released = tokio::time::timeout(GIVE_BACK, given_back).await;
        tracing::warn!(
            handlers = count,
            given_back = released.unwrap_or_default(),
            "handlers that still ran were cut off; their deliveries are tried again, and the \
             attempt does not count"
        );
    }
}

/// Gives deliveries back; how many.
async fn give_back(shared: &Shared, receipts: HashMap<(AppId, Place), Uuid>) -> u64 {
    let mut count = 0;
    for ((app, place), lease) in receipts {
        let receipt = Receipt { app, place, lease };
        let now = shared.clock.now();
        match shared.host.store().release(&receipt, now).await {
            Ok(released) => count += u64::from(released),
            Err(error) => {
                let what = format_args!("the return of a delivery of app {app}");
                shared.deliveries.skips(&what, &chain(&error));
            }
        }
    }
    count
}
