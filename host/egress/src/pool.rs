//! Idle connections, each for one app and one origin.

use super::connection::Connection;
use kvasm_core::{AppId, HttpOrigin};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

struct IdleConnection {
    origin: HttpOrigin,
    connection: Connection,
    since: Instant,
}

#[derive(Default)]
struct PoolState {
    /// The longest idle first.
    apps: HashMap<AppId, VecDeque<IdleConnection>>,
    /// In all.
    count: usize,
    /// Whether a task closes those that have been idle for too long.
    has_sweeper: bool,
}

/// Idle connections. No app uses a connection of another one.
pub(crate) struct ConnectionPool {
    state: Mutex<PoolState>,
    per_app: usize,
    in_all: usize,
    timeout: Duration,
}

impl ConnectionPool {
    pub(crate) fn new(per_app: usize, in_all: usize, timeout: Duration) -> Arc<ConnectionPool> {
        Arc::new(ConnectionPool {
            state: Mutex::default(),
            per_app,
            in_all,
            timeout,
        })
    }

    /// Takes the connection to an origin that was used last.
    pub(crate) fn take(&self, app: AppId, origin: &HttpOrigin) -> Option<Connection> {
        let mut state = self.state.lock();
        let idle = state.apps.get_mut(&app)?;
        let at = idle.iter().rposition(|idle| idle.origin == *origin)?;
        let taken = idle.remove(at)?;
        state.removed(app, 1);
        let is_fresh = taken.since.elapsed() < self.timeout && !taken.connection.is_closed();
        is_fresh.then_some(taken.connection)
    }

    /// Keeps a connection for later. Closes those that exceed a limit, the longest idle ones first:
    /// of the same app, or of the app with the most.
    pub(crate) fn put(
        self: &Arc<ConnectionPool>,
        app: AppId,
        origin: HttpOrigin,
        connection: Connection,
    ) {
        if self.per_app == 0 || self.in_all == 0 {
            return;
        }
        let idle = IdleConnection {
            origin,
            connection,
            since: Instant::now(),
        };
        let mut state = self.state.lock();
        let of_app = state.apps.entry(app).or_default();
        of_app.push_back(idle);
        let is_over = of_app.len() > self.per_app;
        state.count += 1;
        if is_over {
            state.close_longest(app);
        }
        if state.count > self.in_all {
            let most = state.apps.iter().max_by_key(|(_, idle)| idle.len());
            if let Some(most) = most.map(|(app, _)| *app) {
                state.close_longest(most);
            }
        }
        if !state.has_sweeper {
            state.has_sweeper = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.timeout));
        }
    }

    /// Closes what has been idle for too long. Returns whether anything is left.
    fn sweep(&self) -> bool {
        let mut state = self.state.lock();
        let is_fresh = |idle: &IdleConnection| {
            idle.since.elapsed() < self.timeout && !idle.connection.is_closed()
        };
        let mut count = 0;
        state.apps.retain(|_, idle| {
            idle.retain(is_fresh);
            count += idle.len();
            !idle.is_empty()
        });
        state.count = count;
        state.has_sweeper = count > 0;
        state.has_sweeper
    }
}

impl PoolState {
    fn close_longest(&mut self, app: AppId) {
        let closed = self.apps.get_mut(&app).and_then(VecDeque::pop_front);
        self.removed(app, usize::from(closed.is_some()));
    }

    fn removed(&mut self, app: AppId, count: usize) {
        self.count = self.count.saturating_sub(count);
        if self.apps.get(&app).is_some_and(VecDeque::is_empty) {
            self.apps.remove(&app);
        }
    }
}

/// Closes connections that have been idle for too long, while there are any.
async fn sweep(pool: Weak<ConnectionPool>, timeout: Duration) {
    let interval = (timeout / 2).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(interval).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() => {}
            _ => return,
        }
    }
}
