//! What a batch comes to, key by key.
//!
//! A key may occur several times in a batch. Only its last operation reaches the
//! database: a row that were deleted and inserted again in one transaction would
//! look gone to a statement that waits for it. The answers of the operations
//! before are worked out here.

use crate::model::{Applied, Op, Timestamp, Version, WriteBatch};
use std::collections::BTreeMap;

/// A collection and a key. They order as Postgres orders them.
pub(super) type Address<'b> = (&'b str, &'b str);

pub(super) fn address(op: &Op) -> Address<'_> {
    match op {
        Op::Set {
            collection, key, ..
        }
        | Op::Delete { collection, key }
        | Op::Increment {
            collection, key, ..
        } => (collection.as_str(), key.as_str()),
    }
}

/// A batch, worked out.
pub(super) struct Plan<'b> {
    /// Every key that a check or an operation names.
    pub(super) keys: BTreeMap<Address<'b>, Fate<'b>>,
    answers: Vec<Answer<'b>>,
    /// How many versions are drawn for sets that are replaced in the same batch.
    pub(super) draws: usize,
    has_checks: bool,
}

/// What happens to one key.
#[derive(Default)]
pub(super) struct Fate<'b> {
    /// Its last operation, if any.
    pub(super) last: Option<&'b Op>,
    /// An operation before the last leaves it absent.
    absent_before: bool,
}

impl Fate<'_> {
    pub(super) fn is_set(&self) -> bool {
        matches!(self.last, Some(Op::Set { .. }))
    }

    /// The set that is left does not continue the entry that may be there now.
    pub(super) fn starts_anew(&self) -> bool {
        self.is_set() && self.absent_before
    }
}

/// Where the answer of one operation comes from.
#[derive(Clone, Copy)]
enum Answer<'b> {
    /// The version that the set of this key returns.
    Written(Address<'b>),
    /// The version drawn for a set that is replaced.
    Drawn(usize),
    /// What an operation before it left.
    Known { existed: bool },
    /// Whether there was an entry before.
    Found(Address<'b>),
    /// Whether the deletion of this key found an entry.
    Removed(Address<'b>),
}

/// What the database said, for `Plan::answers`.
#[derive(Default)]
pub(super) struct Outcome<'r> {
    pub(super) written: BTreeMap<Address<'r>, Version>,
    pub(super) drawn: Vec<Version>,
    /// The live entries that were there before.
    pub(super) found: BTreeMap<Address<'r>, Version>,
    pub(super) removed: BTreeMap<Address<'r>, bool>,
}

impl<'b> Plan<'b> {
    pub(super) fn new(batch: &'b WriteBatch) -> Plan<'b> {
        let mut keys: BTreeMap<Address<'b>, Fate<'b>> = BTreeMap::new();
        for check in &batch.checks {
            let address = (check.collection.as_str(), check.key.as_str());
            keys.entry(address).or_default();
        }
        for op in &batch.ops {
            keys.entry(address(op)).or_default().last = Some(op);
        }
        let mut plan = Plan {
            keys,
            answers: Vec::with_capacity(batch.ops.len()),
            draws: 0,
            has_checks: !batch.checks.is_empty(),
        };
        let mut left: BTreeMap<Address<'b>, Left> = BTreeMap::new();
        for op in &batch.ops {
            plan.answer(op, left.entry(address(op)).or_default(), batch.now);
        }
        plan
    }

    fn answer(&mut self, op: &'b Op, left: &mut Left, now: Timestamp) {
        let at = address(op);
        let Some(fate) = self.keys.get_mut(&at) else {
            return;
        };
        let is_last = fate.last.is_some_and(|last| std::ptr::eq(last, op));
        let answer = match op {
            Op::Increment { .. } => return,
            Op::Set { .. } if is_last => Answer::Written(at),
            Op::Set { .. } => {
                self.draws += 1;
                Answer::Drawn(self.draws - 1)
            }
            Op::Delete { .. } => match left {
                Left::Untouched if fate.is_set() => Answer::Found(at),
                Left::Untouched => Answer::Removed(at),
                Left::Live => Answer::Known { existed: true },
                Left::Absent => Answer::Known { existed: false },
            },
        };
        self.answers.push(answer);
        *left = match op {
            Op::Set { expires_at, .. } if expires_at.is_none_or(|at| at > now) => Left::Live,
            Op::Set { .. } | Op::Delete { .. } | Op::Increment { .. } => Left::Absent,
        };
        fate.absent_before |= !is_last && matches!(left, Left::Absent);
    }

    /// Whether the batch depends on what there is before it.
    pub(super) fn needs_state(&self) -> bool {
        self.has_checks || self.keys.values().any(Fate::starts_anew)
    }

    /// The answers of all operations; `None` if the database left one out.
    pub(super) fn answers(&self, outcome: &Outcome<'_>) -> Option<Vec<Applied>> {
        let answer = |answer: &Answer<'b>| {
            Some(match *answer {
                Answer::Written(at) => Applied::Set(*outcome.written.get(&at)?),
                Answer::Drawn(at) => Applied::Set(*outcome.drawn.get(at)?),
                Answer::Known { existed } => Applied::Deleted { existed },
                Answer::Found(at) => Applied::Deleted {
                    existed: outcome.found.contains_key(&at),
                },
                Answer::Removed(at) => {
                    let existed = outcome.removed.get(&at).copied().unwrap_or(false);
                    Applied::Deleted { existed }
                }
            })
        };
        self.answers.iter().map(answer).collect()
    }
}

/// What the operations so far have left of a key.
#[derive(Default)]
enum Left {
    #[default]
    Untouched,
    Live,
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AppId, Collection, Key, Value};

    fn set(key: &str, expires_at: Option<i64>) -> Op {
        Op::Set {
            collection: Collection::parse("c").unwrap(),
            key: Key::parse(key).unwrap(),
            value: Value::Bytes(Vec::new()),
            expires_at: expires_at.map(Timestamp),
        }
    }

    fn delete(key: &str) -> Op {
        Op::Delete {
            collection: Collection::parse("c").unwrap(),
            key: Key::parse(key).unwrap(),
        }
    }

    fn batch(ops: Vec<Op>) -> WriteBatch {
        WriteBatch {
            ops,
            ..WriteBatch::new(AppId::generate(), Timestamp(100))
        }
    }

    #[test]
    fn the_last_operation_of_a_key_is_the_one_that_runs() {
        let batch = batch(vec![
            set("a", None),
            delete("b"),
            delete("a"),
            set("b", None),
            delete("c"),
        ]);
        let plan = Plan::new(&batch);
        let fates: Vec<_> = plan
            .keys
            .iter()
            .map(|(at, fate)| (at.1, fate.is_set(), fate.starts_anew()))
            .collect();
        assert_eq!(
            fates,
            [("a", false, false), ("b", true, true), ("c", false, false)]
        );
        assert_eq!(plan.draws, 1);

        let outcome = Outcome {
            written: BTreeMap::from([(("c", "b"), Version(9))]),
            drawn: vec![Version(8)],
            found: BTreeMap::from([(("c", "b"), Version(1))]),
            removed: BTreeMap::from([(("c", "a"), false)]),
        };
        let deleted = |existed| Applied::Deleted { existed };
        assert_eq!(
            plan.answers(&outcome).unwrap(),
            [
                Applied::Set(Version(8)),
                deleted(true),
                deleted(true),
                Applied::Set(Version(9)),
                deleted(false)
            ]
        );
    }

    #[test]
    fn a_set_that_has_expired_leaves_nothing_to_delete() {
        let batch = batch(vec![
            set("a", Some(100)),
            delete("a"),
            set("b", Some(101)),
            delete("b"),
            delete("b"),
        ]);
        let outcome = Outcome {
            drawn: vec![Version(1), Version(2)],
            ..Outcome::default()
        };
        let answers = Plan::new(&batch).answers(&outcome).unwrap();
        let existed: Vec<_> = answers
            .iter()
            .filter_map(|applied| match applied {
                Applied::Deleted { existed } => Some(*existed),
                Applied::Set(_) | Applied::Incremented { .. } => None,
            })
            .collect();
        assert_eq!(existed, [false, true, false]);
    }
}
