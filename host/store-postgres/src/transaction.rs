//! Transactions, retried until they do not lose a race.

use super::classify::{lost_connection, lost_race, store_error};
use super::lease::Lease;
use super::pool::{ATTEMPTS, Pool};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use sqlx::Error;

/// The work of one transaction. It may run several times, but takes effect once.
#[async_trait]
pub(super) trait Work: Sync {
    type Done: Send;

    /// Runs the statements between BEGIN and COMMIT.
    async fn run(&self, lease: &mut Lease) -> Result<Self::Done, Stop>;
}

/// Why an attempt ended without a commit.
pub(super) enum Stop {
    /// With this result.
    Refused(StoreError),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Refused(error)
    }
}

impl From<Stop> for StoreError {
    fn from(stop: Stop) -> StoreError {
        match stop {
            Stop::Refused(error) => error,
            Stop::Error(error) => store_error(error),
        }
    }
}

/// Runs work in a transaction, and retries it if it loses a race.
pub(super) async fn transact<W: Work>(pool: &Pool, work: &W) -> Result<W::Done, Stop> {
    let mut reconnected = false;
    for _ in 0..ATTEMPTS {
        let mut lease = pool.lease().await?;
        let stop = match attempt(&mut lease, work).await {
            Ok(done) => match lease.commit().await {
                Ok(()) => return Ok(done),
                Err(error) if lost_race(&error) => continue,
                Err(error) => return Err(Stop::Error(error)),
            },
            Err(stop) => stop,
        };
        lease.roll_back().await;
        match stop {
            Stop::Error(error) if lost_race(&error) => {}
            // Nothing was committed, so it is safe to retry once.
            Stop::Error(error) if lost_connection(&error) && !reconnected => reconnected = true,
            stop => return Err(stop),
        }
    }
    let why = format!("{ATTEMPTS} attempts lost a race against other transactions");
    Err(Stop::Refused(StoreError::Unavailable(why.into())))
}

async fn attempt<W: Work>(lease: &mut Lease, work: &W) -> Result<W::Done, Stop> {
    lease.begin().await?;
    work.run(lease).await
}
