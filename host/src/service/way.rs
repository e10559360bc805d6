//! How one run of a transaction goes about keys that others hold.

use super::lane::{Address, Lane, Lanes};
use crate::model::AppId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// How one run of a transaction goes about keys that others hold. One without a lane
/// gives way to each lane; one with a lane to those whose keys it does not have.
pub(crate) struct Way {
    lanes: Arc<Lanes>,
    app: AppId,
    lane: Option<Arc<Lane>>,
    /// What it gave way for.
    blocked: Mutex<BTreeSet<Address>>,
    gives_way: Arc<Notify>,
}

impl Way {
    pub(crate) fn new(lanes: Arc<Lanes>, app: AppId, lane: Option<Arc<Lane>>) -> Way {
        Way {
            lanes,
            app,
            lane,
            blocked: Mutex::default(),
            gives_way: Arc::default(),
        }
    }

    /// Is notified when the run gives way: it is to be ended then.
    pub(crate) fn gives_way(&self) -> Arc<Notify> {
        Arc::clone(&self.gives_way)
    }

    /// Whether it has given way.
    pub(crate) fn gave_way(&self) -> bool {
        !self.blocked.lock().is_empty()
    }

    pub(super) fn lane(&self) -> Option<&Arc<Lane>> {
        self.lane.as_ref()
    }

    pub(super) fn blocked(&self) -> BTreeSet<Address> {
        self.blocked.lock().clone()
    }

    /// Before keys are looked at or written. Never returns if the run gives way.
    pub(super) async fn touch<'k>(&self, keys: impl Iterator<Item = &'k Address> + Clone) {
        let is_free = match &self.lane {
            Some(lane) => lane.touch(keys.clone()).await,
            None => !self.is_taken(keys.clone()),
        };
        if !is_free {
            self.blocked.lock().extend(keys.cloned());
            self.gives_way.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Whether others hold one of these keys.
    pub(super) fn is_taken<'k>(&self, keys: impl Iterator<Item = &'k Address>) -> bool {
        self.lane.is_none() && self.lanes.is_taken(self.app, keys)
    }
}
