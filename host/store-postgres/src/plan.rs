//! The effect of a batch on each key.
//!
//! A key may occur several times in a batch. Only its last operation reaches the database: if a row
//! were deleted and inserted again in one transaction, a statement that waits for it would see it
//! as deleted. The results of the earlier operations are computed here. Increments have been
//! replaced by sets at this point.

use kvasm_core::{Applied, Check, Op, Timestamp, Version};
use std::collections::BTreeMap;

/// A collection and a key, which sort as in Postgres.
pub(super) type Address<'b> = (&'b str, &'b str);

pub(super) fn address(op: &Op) -> Address<'_> {
    let (collection, key) = op.address();
    (collection.as_str(), key.as_str())
}

/// The plan of a batch.
pub(super) struct Plan<'b> {
    /// Every key that a check or an operation names.
    pub(super) keys: BTreeMap<Address<'b>, KeyPlan<'b>>,
    answers: Vec<ResultSource<'b>>,
    /// The number of versions to draw for sets that are replaced in the same batch.
    pub(super) draws: usize,
    has_checks: bool,
}

/// What happens to one key.
#[derive(Default)]
pub(super) struct KeyPlan<'b> {
    /// Its last operation, if any.
    pub(super) last: Option<&'b Op>,
    /// Whether an operation before the last leaves it absent.
    absent_before: bool,
}

impl KeyPlan<'_> {
    pub(super) fn is_set(&self) -> bool {
        matches!(self.last, Some(Op::Set { .. } | Op::Increment { .. }))
    }

    /// Returns whether the last set creates a new entry rather than updating an existing one.
    pub(super) fn recreates(&self) -> bool {
        self.is_set() && self.absent_before
    }
}

/// The source of the result of one operation.
#[derive(Clone, Copy)]
enum ResultSource<'b> {
    /// The version that the set of this key returns.
    Written(Address<'b>),
    /// The version drawn for a set that is replaced.
    Drawn(usize),
    /// The state after an earlier operation: absent, or the version drawn for a set.
    Known(Option<usize>),
    /// Whether there was an entry before the batch.
    Found(Address<'b>),
    /// Whether the deletion of this key found an entry.
    Removed(Address<'b>),
}

/// The results from the database, for `Plan::answers`.
#[derive(Default)]
pub(super) struct DatabaseResults<'r> {
    pub(super) written: BTreeMap<Address<'r>, Version>,
    pub(super) drawn: Vec<Version>,
    /// The live entries before the batch.
    pub(super) found: BTreeMap<Address<'r>, Version>,
    /// The live entries that were deleted.
    pub(super) removed: BTreeMap<Address<'r>, Version>,
}

/// The result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedResult {
    pub(super) applied: Applied,
    /// The version that was written or deleted; `None` if nothing changed.
    pub(super) version: Option<Version>,
}

impl PlannedResult {
    fn set(version: Version) -> PlannedResult {
        PlannedResult {
            applied: Applied::Set(version),
            version: Some(version),
        }
    }

    fn deleted(version: Option<Version>) -> PlannedResult {
        let existed = version.is_some();
        PlannedResult {
            applied: Applied::Deleted { existed },
            version,
        }
    }
}

impl<'b> Plan<'b> {
    pub(super) fn new(checks: &'b [Check], ops: &'b [Op], now: Timestamp) -> Plan<'b> {
        let mut keys: BTreeMap<Address<'b>, KeyPlan<'b>> = BTreeMap::new();
        for check in checks {
            let address = (check.collection.as_str(), check.key.as_str());
            keys.entry(address).or_default();
        }
        for op in ops {
            keys.entry(address(op)).or_default().last = Some(op);
        }
        let mut plan = Plan {
            keys,
            answers: Vec::with_capacity(ops.len()),
            draws: 0,
            has_checks: !checks.is_empty(),
        };
        let mut left: BTreeMap<Address<'b>, KeyState> = BTreeMap::new();
        for op in ops {
            plan.answer(op, left.entry(address(op)).or_default(), now);
        }
        plan
    }

    fn answer(&mut self, op: &'b Op, left: &mut KeyState, now: Timestamp) {
        let at = address(op);
        let Some(fate) = self.keys.get_mut(&at) else {
            return;
        };
        let is_last = fate.last.is_some_and(|last| std::ptr::eq(last, op));
        let answer = match op {
            Op::Set { .. } | Op::Increment { .. } if is_last => ResultSource::Written(at),
            Op::Set { .. } | Op::Increment { .. } => {
                self.draws += 1;
                ResultSource::Drawn(self.draws - 1)
            }
            Op::Delete { .. } => match left {
                KeyState::Untouched if fate.is_set() => ResultSource::Found(at),
                KeyState::Untouched => ResultSource::Removed(at),
                KeyState::Live(drawn) => ResultSource::Known(Some(*drawn)),
                KeyState::Absent => ResultSource::Known(None),
            },
        };
        self.answers.push(answer);
        *left = match (op, answer) {
            (Op::Set { expires_at, .. }, ResultSource::Drawn(drawn))
                if expires_at.is_none_or(|at| at > now) =>
            {
                KeyState::Live(drawn)
            }
            _ => KeyState::Absent,
        };
        fate.absent_before |= !is_last && matches!(left, KeyState::Absent);
    }

    /// Returns whether the batch depends on the state before it. Increments that are not resolved
    /// yet count as sets of entries that may have expired.
    pub(super) fn needs_state(&self) -> bool {
        self.has_checks || self.keys.values().any(KeyPlan::recreates)
    }

    /// Returns the results of all operations; `None` if the database omitted one.
    pub(super) fn answers(&self, outcome: &DatabaseResults<'_>) -> Option<Vec<PlannedResult>> {
        let answer = |answer: &ResultSource<'b>| {
            Some(match *answer {
                ResultSource::Written(at) => PlannedResult::set(*outcome.written.get(&at)?),
                ResultSource::Drawn(at) => PlannedResult::set(*outcome.drawn.get(at)?),
                ResultSource::Known(None) => PlannedResult::deleted(None),
                ResultSource::Known(Some(at)) => {
                    PlannedResult::deleted(Some(*outcome.drawn.get(at)?))
                }
                ResultSource::Found(at) => PlannedResult::deleted(outcome.found.get(&at).copied()),
                ResultSource::Removed(at) => {
                    PlannedResult::deleted(outcome.removed.get(&at).copied())
                }
            })
        };
        self.answers.iter().map(answer).collect()
    }
}

/// The state of a key after the operations so far.
#[derive(Default)]
enum KeyState {
    #[default]
    Untouched,
    /// A set whose version was drawn.
    Live(usize),
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{Collection, Key, Value};

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

    fn plan(ops: &[Op]) -> Plan<'_> {
        Plan::new(&[], ops, Timestamp(100))
    }

    #[test]
    fn only_the_last_operation_of_a_key_is_executed() {
        let ops = [
            set("a", None),
            delete("b"),
            delete("a"),
            set("b", None),
            delete("c"),
        ];
        let plan = plan(&ops);
        let fates: Vec<_> = plan
            .keys
            .iter()
            .map(|(at, fate)| (at.1, fate.is_set(), fate.recreates()))
            .collect();
        assert_eq!(
            fates,
            [("a", false, false), ("b", true, true), ("c", false, false)]
        );
        assert_eq!(plan.draws, 1);

        let outcome = DatabaseResults {
            written: BTreeMap::from([(("c", "b"), Version(9))]),
            drawn: vec![Version(8)],
            found: BTreeMap::from([(("c", "b"), Version(1))]),
            removed: BTreeMap::from([(("c", "c"), Version(2))]),
        };
        let (set, deleted) = (PlannedResult::set, PlannedResult::deleted);
        assert_eq!(
            plan.answers(&outcome).unwrap(),
            [
                set(Version(8)),
                deleted(Some(Version(1))),
                deleted(Some(Version(8))),
                set(Version(9)),
                deleted(Some(Version(2)))
            ]
        );
    }

    #[test]
    fn delete_after_an_expired_set_finds_nothing() {
        let ops = [
            set("a", Some(100)),
            delete("a"),
            set("b", Some(101)),
            delete("b"),
            delete("b"),
        ];
        let outcome = DatabaseResults {
            drawn: vec![Version(1), Version(2)],
            ..DatabaseResults::default()
        };
        let answers = plan(&ops).answers(&outcome).unwrap();
        let existed: Vec<_> = answers
            .iter()
            .filter_map(|done| match done.applied {
                Applied::Deleted { existed } => Some(existed),
                _ => None,
            })
            .collect();
        assert_eq!(existed, [false, true, false]);
    }
}
