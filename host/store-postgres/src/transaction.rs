//! Transactions, retried until they do not lose a race.

use super::classify::{lost_connection, lost_race, store_error};
use super::lease::Lease;
use super::pool::{ATTEMPTS, Pool};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use sqlx::Error;

/// The work of one transaction. It may run several times, but takes effect once.
#[async_trait]
pub(super) trait TransactionWork: Sync {
    type Done: Send;

    /// Runs the statements between BEGIN and COMMIT.
    async fn run(&self, lease: &mut Lease) -> Result<Self::Done, Abort>;
}

/// Why an attempt ended without a commit.
pub(super) enum Abort {
    /// With this result.
    Refused(StoreError),
    Error(Error),
    /// It may succeed if it is run again.
    LostRace,
}

impl From<Error> for Abort {
    fn from(error: Error) -> Abort {
        Abort::Error(error)
    }
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Abort {
        Abort::Refused(error)
    }
}

impl From<Abort> for StoreError {
    fn from(stop: Abort) -> StoreError {
        match stop {
            Abort::Refused(error) => error,
            Abort::Error(error) => store_error(error),
            Abort::LostRace => exhausted(),
        }
    }
}

/// Runs work in a transaction, and retries it if it loses a race.
pub(super) async fn transact<W: TransactionWork>(pool: &Pool, work: &W) -> Result<W::Done, Abort> {
    let mut reconnected = false;
    for _ in 0..ATTEMPTS {
        let mut lease = pool.lease().await?;
        let stop = match attempt(&mut lease, work).await {
            Ok(done) => match lease.commit().await {
                Ok(()) => return Ok(done),
                Err(error) if lost_race(&error) => continue,
                Err(error) => return Err(Abort::Error(error)),
            },
            Err(stop) => stop,
        };
        lease.roll_back().await;
        match stop {
            Abort::LostRace => {}
            Abort::Error(error) if lost_race(&error) => {}
            // Nothing was committed, so it is safe to retry once.
            Abort::Error(error) if lost_connection(&error) && !reconnected => reconnected = true,
            stop => return Err(stop),
        }
    }
    Err(Abort::Refused(exhausted()))
}

fn exhausted() -> StoreError {
    let why = format!("{ATTEMPTS} attempts lost a race against other transactions");
    StoreError::Unavailable(why.into())
}

async fn attempt<W: TransactionWork>(lease: &mut Lease, work: &W) -> Result<W::Done, Abort> {
    lease.begin().await?;
    work.run(lease).await
}
