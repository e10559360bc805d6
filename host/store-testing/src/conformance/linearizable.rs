//! Histories of concurrent clients are linearizable, for a single key and for several at once.

use super::Kit;
use super::event_kit::increment;
use super::kit::{NOW, Tenant, check, collection, delete, json, key, list, set, set_until};
use super::rng::Rng;
use crate::linearizability::{self, LogicalClock, Step};
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Check, Entry, Expect, ListQuery, Op, Version};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const COLLECTION: &str = "c";

/// A version and the value's text.
type Found = Option<(Version, String)>;

/// What a client did to keys, which it names by number, and what it observed.
#[derive(Debug, Clone)]
enum Observation {
    Read(Vec<(usize, Found)>),
    Has(usize, bool),
    Wrote(Vec<(usize, Expect)>, Vec<(usize, OpResult)>),
    /// The positions of the checks that failed.
    Refused(Vec<(usize, Expect)>, Vec<usize>),
    /// An increment of a value that is not a number.
    NoNumber(usize),
}

#[derive(Debug, Clone)]
enum OpResult {
    Set(String, Version),
    /// A set of an already expired entry.
    SetExpired(Version),
    Delete(bool),
    /// The delta, the new version and the sum.
    Add(i64, Version, i64),
}

/// A write's version is greater than the one it replaces. Whether it is greater than that of an
/// entry deleted while this write was in progress is left open: Postgres draws versions before
/// it waits for a row. [`assert_versions_are_new`] checks separately that no version is reused.
fn write(found: &mut Found, version: Version, value: Option<String>) -> Option<()> {
    if found.as_ref().is_some_and(|(before, _)| version <= *before) {
        return None;
    }
    *found = value.map(|value| (version, value));
    Some(())
}

fn number(found: &Found) -> Option<i64> {
    match found {
        None => Some(0),
        Some((_, value)) => value.parse().ok(),
    }
}

fn holds(found: &Found, expect: Expect) -> bool {
    expect.holds(found.as_ref().map(|(version, _)| *version))
}

impl Step for Observation {
    type State = Vec<Found>;

    fn apply(&self, cells: &Vec<Found>) -> Option<Vec<Found>> {
        let failed = |checks: &[(usize, Expect)]| -> Vec<usize> {
            let checks = checks.iter().enumerate();
            let failed = checks.filter(|(_, (k, expect))| !holds(&cells[*k], *expect));
            failed.map(|(at, _)| at).collect()
        };
        let unchanged = |fits: bool| fits.then(|| cells.clone());
        match self {
            Observation::Read(found) => unchanged(found.iter().all(|(k, f)| cells[*k] == *f)),
            Observation::Has(k, found) => unchanged(cells[*k].is_some() == *found),
            Observation::Refused(checks, named) => {
                unchanged(!named.is_empty() && failed(checks) == *named)
            }
            Observation::NoNumber(k) => unchanged(number(&cells[*k]).is_none()),
            Observation::Wrote(checks, done) => {
                if !failed(checks).is_empty() {
                    return None;
                }
                let mut cells = cells.clone();
                for (k, did) in done {
                    let cell = &mut cells[*k];
                    match did {
                        OpResult::Set(value, version) => {
                            write(cell, *version, Some(value.clone()))?
                        }
                        OpResult::SetExpired(version) => write(cell, *version, None)?,
                        OpResult::Delete(existed) if *existed != cell.is_some() => return None,
                        OpResult::Delete(_) => *cell = None,
                        OpResult::Add(delta, version, sum) => {
                            if number(cell)?.checked_add(*delta) != Some(*sum) {
                                return None;
                            }
                            write(cell, *version, Some(sum.to_string()))?;
                        }
                    }
                }
                Some(cells)
            }
        }
    }
}

/// One client.
struct Client {
    app: Tenant,
    rng: Rng,
    /// Prefix of each value that it sets.
    number: usize,
    written: usize,
    keys: Vec<String>,
    /// The last version that it saw of each key.
    versions: Vec<Option<Version>>,
}

impl Client {
    fn see(&mut self, k: usize, entry: Option<&Entry>) -> Found {
        self.versions[k] = entry.map(|entry| entry.version);
        let text = |entry: &Entry| String::from_utf8(entry.value.as_bytes().to_vec());
        entry.map(|entry| (entry.version, text(entry).expect("text")))
    }

    async fn read(&mut self, k: usize) -> Observation {
        let name = self.keys[k].clone();
        let entry = match self.rng.below(3) {
            0 => self.app.get(COLLECTION, &name).await,
            1 => {
                let keys = [(collection(COLLECTION), key(&name))];
                let app = &self.app;
                let found = app.store.get_many(app.id, &keys, app.now, 1_000).await;
                found.expect("an answer").pop().expect("a slot")
            }
            _ => {
                let query = ListQuery {
                    with_values: true,
                    ..list(COLLECTION)
                };
                let page = self.app.page(&query).await;
                let mut entries = page.entries.into_iter();
                let found = entries.find(|(key, _)| key.as_str() == name);
                found.and_then(|(_, entry)| entry)
            }
        };
        Observation::Read(vec![(k, self.see(k, entry.as_ref()))])
    }

    /// Often expects what it saw last.
    fn expect(&mut self, k: usize) -> Expect {
        match self.versions[k] {
            Some(version) if self.rng.chance(4, 5) => Expect::Version(version),
            _ => Expect::Absent,
        }
    }

    /// An operation, and how to record its result if it takes effect.
    fn op(&mut self, k: usize, text: bool) -> (Op, impl FnOnce(&Applied) -> OpResult + use<>) {
        self.written += 1;
        let name = self.keys[k].clone();
        let value = self.number * 10_000 + self.written;
        let value = match text && self.rng.chance(1, 5) {
            true => format!("\"{value}\""),
            false => value.to_string(),
        };
        let delta = self.rng.below(9) as i64 - 4;
        let op = match self.rng.below(9) {
            0..=2 => set(COLLECTION, &name, json(&value)),
            3 => set_until(COLLECTION, &name, json(&value), NOW),
            4 | 5 => delete(COLLECTION, &name),
            _ => increment(COLLECTION, &name, delta),
        };
        let expires = matches!(&op, Op::Set { expires_at, .. } if expires_at.is_some());
        let did = move |applied: &Applied| match *applied {
            Applied::Set(version) if expires => OpResult::SetExpired(version),
            Applied::Set(version) => OpResult::Set(value, version),
            Applied::Deleted { existed } => OpResult::Delete(existed),
            Applied::Incremented { version, value } => OpResult::Add(delta, version, value),
            other => panic!("{other:?}"),
        };
        (op, did)
    }

    async fn write(&mut self, checked: &[usize], changed: &[usize], text: bool) -> Observation {
        let checks: Vec<_> = checked.iter().map(|k| (*k, self.expect(*k))).collect();
        let changes: Vec<_> = changed.iter().map(|k| (*k, self.op(*k, text))).collect();
        let expectation =
            |(k, expect): &(usize, Expect)| check(COLLECTION, &self.keys[*k], *expect);
        let of_store: Vec<Check> = checks.iter().map(expectation).collect();
        let ops = changes.iter().map(|(_, (op, _))| op.clone()).collect();
        match self.app.try_commit(of_store, ops).await {
            Ok(applied) => {
                let mut done = Vec::new();
                for ((k, (_, did)), applied) in changes.into_iter().zip(&applied) {
                    let did = did(applied);
                    self.versions[k] = match did {
                        OpResult::Set(_, version) | OpResult::Add(_, version, _) => Some(version),
                        OpResult::SetExpired(_) | OpResult::Delete(_) => None,
                    };
                    done.push((k, did));
                }
                Observation::Wrote(checks, done)
            }
            Err(StoreError::Conflict { failed }) => Observation::Refused(checks, failed),
            Err(StoreError::NotInteger { at }) => Observation::NoNumber(changed[at]),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Reads or writes one key.
    async fn of_one_key(&mut self) -> Observation {
        match self.rng.below(10) {
            0..=2 => self.read(0).await,
            3 => Observation::Has(0, self.app.has(COLLECTION, &self.keys[0]).await),
            4..=6 => self.swap().await,
            _ => self.write(&[], &[0], true).await,
        }
    }

    /// Sets or deletes if the key is as expected. No increment: a store may report a failed
    /// check or a non-integer value first.
    async fn swap(&mut self) -> Observation {
        let expect = self.expect(0);
        let name = self.keys[0].clone();
        self.written += 1;
        let value = (self.number * 10_000 + self.written).to_string();
        let op = match self.rng.chance(1, 3) {
            true => delete(COLLECTION, &name),
            false => set(COLLECTION, &name, json(&value)),
        };
        let checks = vec![check(COLLECTION, &name, expect)];
        let checked = vec![(0, expect)];
        match self.app.try_commit(checks, vec![op]).await {
            Ok(applied) => match applied[0] {
                Applied::Deleted { existed } => {
                    Observation::Wrote(checked, vec![(0, OpResult::Delete(existed))])
                }
                Applied::Set(version) => {
                    self.versions[0] = Some(version);
                    Observation::Wrote(checked, vec![(0, OpResult::Set(value, version))])
                }
                other => panic!("not sent: {other:?}"),
            },
            Err(StoreError::Conflict { failed }) => Observation::Refused(checked, failed),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Reads or writes several keys at once.
    async fn of_several_keys(&mut self) -> Observation {
        if self.rng.chance(1, 3) {
            let keys: Vec<_> = self
                .keys
                .iter()
                .map(|k| (collection(COLLECTION), key(k)))
                .collect();
            let app = &self.app;
            let found = app.store.get_many(app.id, &keys, app.now, 10_000).await;
            let found = found.expect("an answer");
            let found = found.iter().enumerate();
            return Observation::Read(found.map(|(k, e)| (k, self.see(k, e.as_ref()))).collect());
        }
        let some = |rng: &mut Rng, max: usize, keys: usize| -> Vec<usize> {
            let count = rng.below(max + 1);
            (0..count).map(|_| rng.below(keys)).collect()
        };
        let keys = self.keys.len();
        let checked = some(&mut self.rng, 2, keys);
        let mut changed = some(&mut self.rng, 3, keys);
        changed.push(self.rng.below(keys));
        self.write(&checked, &changed, false).await
    }
}

/// Several clients for each of several independent keys.
pub async fn single_key_histories_are_linearizable(kit: Kit) {
    const KEYS: usize = 3;
    const CLIENTS: usize = 5;
    const CALLS: usize = 60;
    let app = kit.app().await;
    let mut rng = kit.rng();
    let mut keys = JoinSet::new();
    for k in 0..KEYS {
        let clients = clients(&app, &mut rng, CLIENTS, &[&format!("k{k}")]);
        keys.spawn(history(clients, CALLS, true));
    }
    for calls in keys.join_all().await {
        assert_eq!(calls.len(), CLIENTS * CALLS);
        assert_versions_are_new(&calls);
        linearizability::check(vec![None], calls).unwrap();
    }
}

/// Batches with checks, and reads of several keys.
pub async fn multi_key_histories_are_linearizable(kit: Kit) {
    let app = kit.app().await;
    let clients = clients(&app, &mut kit.rng(), 4, &["a", "b", "c"]);
    let calls = history(clients, 50, false).await;
    assert_versions_are_new(&calls);
    linearizability::check(vec![None; 3], calls).unwrap();
}

/// Asserts that no key was given a version twice.
fn assert_versions_are_new(calls: &[linearizability::Call<Observation>]) {
    let mut given = BTreeSet::new();
    for call in calls {
        let Observation::Wrote(_, done) = &call.step else {
            continue;
        };
        for (k, did) in done {
            let (OpResult::Set(_, version)
            | OpResult::SetExpired(version)
            | OpResult::Add(_, version, _)) = did
            else {
                continue;
            };
            assert!(
                given.insert((*k, *version)),
                "{version:?} was reused: {call:?}"
            );
        }
    }
}

fn clients(app: &Tenant, rng: &mut Rng, count: usize, keys: &[&str]) -> Vec<Client> {
    let client = |number| Client {
        app: app.clone(),
        rng: rng.split(),
        number,
        written: 0,
        keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        versions: vec![None; keys.len()],
    };
    (1..=count).map(client).collect()
}

/// Makes each client do `count` calls.
async fn history(
    clients: Vec<Client>,
    count: usize,
    one_key: bool,
) -> Vec<linearizability::Call<Observation>> {
    let moments = Arc::new(LogicalClock::default());
    let together = Arc::new(Barrier::new(clients.len()));
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (moments, together) = (Arc::clone(&moments), Arc::clone(&together));
        tasks.spawn(async move {
            together.wait().await;
            let number = client.number;
            let mut calls = Vec::new();
            for _ in 0..count {
                let call = async {
                    match one_key {
                        true => client.of_one_key().await,
                        false => client.of_several_keys().await,
                    }
                };
                calls.push(moments.call(number, call).await);
                // A store in memory never waits, and the clients should interleave.
                tokio::task::yield_now().await;
            }
            calls
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Version = Version(1);

    fn explained(steps: &[(u64, u64, Observation)]) -> bool {
        let calls = steps
            .iter()
            .map(|(made, answered, step)| linearizability::Call {
                client: 0,
                invoked: *made,
                returned: *answered,
                step: step.clone(),
            });
        linearizability::check(vec![None; 2], calls.collect()).is_ok()
    }

    fn set_to(k: usize, value: &str, version: u64) -> Observation {
        Observation::Wrote(
            vec![],
            vec![(k, OpResult::Set(value.to_owned(), Version(version)))],
        )
    }

    fn read(k: usize, found: Option<(u64, &str)>) -> (usize, Found) {
        (
            k,
            found.map(|(version, value)| (Version(version), value.to_owned())),
        )
    }

    fn if_one(k: usize, version: u64) -> Observation {
        let did = OpResult::Set("2".to_owned(), Version(version));
        Observation::Wrote(vec![(k, Expect::Version(ONE))], vec![(k, did)])
    }

    #[test]
    fn non_linearizable_histories_are_detected() {
        let set_one = (0, 1, set_to(0, "1", 1));
        let read_one = |k, found| Observation::Read(vec![read(k, found)]);
        assert!(explained(&[
            set_one.clone(),
            (2, 3, read_one(0, Some((1, "1"))))
        ]));
        // A stale read, a value of another version, a version that decreases.
        assert!(!explained(&[set_one.clone(), (2, 3, read_one(0, None))]));
        assert!(!explained(&[
            set_one.clone(),
            (2, 3, read_one(0, Some((2, "1"))))
        ]));
        assert!(!explained(&[set_one.clone(), (2, 3, set_to(0, "2", 1)),]));
        // A version won by two clients.
        assert!(explained(&[set_one.clone(), (2, 4, if_one(0, 2))]));
        assert!(!explained(&[
            set_one.clone(),
            (2, 4, if_one(0, 2)),
            (3, 5, if_one(0, 3))
        ]));
        // A conflict without a reason, or with the wrong one.
        let refused = |named| {
            Observation::Refused(vec![(0, Expect::Version(ONE)), (1, Expect::Absent)], named)
        };
        assert!(!explained(&[set_one.clone(), (2, 3, refused(vec![0]))]));
        assert!(explained(&[(0, 1, refused(vec![0]))]));
        assert!(!explained(&[(0, 1, refused(vec![0, 1]))]));
        // Half a batch.
        let both = Observation::Wrote(
            vec![],
            vec![
                (0, OpResult::Set("1".to_owned(), ONE)),
                (1, OpResult::Set("1".to_owned(), ONE)),
            ],
        );
        let half = Observation::Read(vec![read(0, Some((1, "1"))), read(1, None)]);
        assert!(!explained(&[(0, 3, both), (1, 2, half)]));
        // An increment of a value other than the stored one.
        let add = |sum| Observation::Wrote(vec![], vec![(0, OpResult::Add(1, Version(9), sum))]);
        assert!(explained(&[set_one.clone(), (2, 3, add(2))]));
        assert!(!explained(&[set_one.clone(), (2, 3, add(1))]));
        assert!(!explained(&[set_one, (2, 3, Observation::NoNumber(0))]));
    }
}
