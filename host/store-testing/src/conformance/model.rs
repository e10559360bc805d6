//! Compares a store with a plain map that is given the same operations.

use super::Kit;
use super::kit::{
    Tenant, at_version, bytes, check, delete, json, key, keys_of, list, set, set_until,
};
use super::rng::Rng;
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Check, Expect, KeyRange, ListQuery, Op, Timestamp, Value, Version};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    value: Value,
    version: Version,
    created_at: Timestamp,
    updated_at: Timestamp,
    expires_at: Option<Timestamp>,
}

/// The expected contents of a store for one app.
#[derive(Default)]
struct Model {
    rows: BTreeMap<(String, String), Row>,
}

impl Model {
    fn find(&self, at: &(String, String), now: Timestamp) -> Option<&Row> {
        let row = self.rows.get(at)?;
        row.expires_at
            .is_none_or(|until| until > now)
            .then_some(row)
    }

    fn failed(&self, checks: &[Check], now: Timestamp) -> Vec<usize> {
        let holds = |check: &Check| {
            let at = (check.collection.to_string(), check.key.to_string());
            check
                .expect
                .holds(self.find(&at, now).map(|row| row.version))
        };
        (0..checks.len())
            .filter(|at| !holds(&checks[*at]))
            .collect()
    }

    /// Applies the store's operations and compares its results.
    fn apply(&mut self, ops: &[Op], applied: &[Applied], now: Timestamp) {
        for (op, applied) in ops.iter().zip(applied) {
            match (op, applied) {
                (
                    Op::Set {
                        collection,
                        key,
                        value,
                        expires_at,
                    },
                    Applied::Set(version),
                ) => {
                    let at = (collection.to_string(), key.to_string());
                    let created_at = self.find(&at, now).map_or(now, |row| row.created_at);
                    if let Some(before) = self.rows.get(&at) {
                        assert!(*version > before.version);
                    }
                    let row = Row {
                        value: value.clone(),
                        version: *version,
                        created_at,
                        updated_at: now,
                        expires_at: *expires_at,
                    };
                    self.rows.insert(at, row);
                }
                (Op::Delete { collection, key }, Applied::Deleted { existed }) => {
                    let at = (collection.to_string(), key.to_string());
                    assert_eq!(self.find(&at, now).is_some(), *existed, "{op:?}");
                    self.rows.remove(&at);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The names of this test: few, so that operations collide.
struct Names {
    collections: &'static [&'static str],
    keys: &'static [&'static str],
}

const NAMES: Names = Names {
    collections: &["c", "C", "ä"],
    keys: &[
        "a",
        "aa",
        "ab",
        "a\u{1}",
        "b",
        "Z",
        "é",
        "\u{ffff}",
        "\u{10000}",
    ],
};

impl Names {
    fn pick(&self, rng: &mut Rng) -> (String, String) {
        (
            rng.pick(self.collections).to_string(),
            rng.pick(self.keys).to_string(),
        )
    }

    fn op(&self, rng: &mut Rng, now: Timestamp) -> Op {
        let (c, k) = self.pick(rng);
        let value = match rng.below(3) {
            0 => json(&rng.below(1000).to_string()),
            _ => bytes(rng.short_bytes(30)),
        };
        match rng.below(8) {
            0..=1 => delete(&c, &k),
            2..=3 => set_until(&c, &k, value, now.plus_ms(rng.below(40) as u64)),
            _ => set(&c, &k, value),
        }
    }

    /// Usually a check that holds.
    fn check(&self, rng: &mut Rng, model: &Model, now: Timestamp) -> Check {
        let at = self.pick(rng);
        let (c, k) = (&at.0, &at.1);
        match (model.find(&at, now), rng.below(6)) {
            (_, 0) => check(c, k, Expect::Absent),
            (Some(row), 1) => at_version(c, k, Version(row.version.0.wrapping_sub(1))),
            (Some(row), _) => at_version(c, k, row.version),
            (None, 1) => at_version(c, k, Version(1)),
            (None, _) => check(c, k, Expect::Absent),
        }
    }

    fn list(&self, rng: &mut Rng) -> ListQuery {
        let keys = self.keys;
        let bytes = |rng: &mut Rng| rng.chance(1, 2).then(|| rng.pick(keys).as_bytes().to_vec());
        let prefix = rng.chance(1, 3).then(|| b"a".to_vec());
        ListQuery {
            range: KeyRange::parse(prefix, bytes(rng), bytes(rng)).expect("a range"),
            reverse: rng.chance(1, 2),
            with_values: rng.chance(1, 2),
            limit: 1 + rng.below(6) as u32,
            bytes_max: 1 + rng.below(100),
            ..list(rng.pick::<&str>(self.collections))
        }
    }
}

async fn step(app: &Tenant, model: &mut Model, rng: &mut Rng) {
    match rng.below(10) {
        0..=5 => {
            let few = if rng.chance(1, 2) { 1 } else { 6 };
            let ops: Vec<_> = (0..1 + rng.below(few))
                .map(|_| NAMES.op(rng, app.now))
                .collect();
            let mut checks: Vec<_> = (0..rng.below(4).saturating_sub(1))
                .map(|_| NAMES.check(rng, model, app.now))
                .collect();
            // Often on the key that is written.
            if let (Some(check), true) = (checks.first_mut(), rng.chance(1, 2)) {
                let (collection, key) = ops[0].address();
                check.collection = collection.clone();
                check.key = key.clone();
            }
            let failed = model.failed(&checks, app.now);
            match app.try_commit(checks.clone(), ops.clone()).await {
                Ok(applied) => {
                    assert_eq!(failed, [0; 0], "{checks:?} held");
                    model.apply(&ops, &applied, app.now);
                }
                Err(StoreError::Conflict { failed: found }) => {
                    assert!(!failed.is_empty());
                    assert_eq!(found, failed, "{checks:?}");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        6..=7 => {
            let at = NAMES.pick(rng);
            let found = app.get(&at.0, &at.1).await.map(|entry| Row {
                value: entry.value,
                version: entry.version,
                created_at: entry.created_at,
                updated_at: entry.updated_at,
                expires_at: entry.expires_at,
            });
            assert_eq!(found.as_ref(), model.find(&at, app.now), "{at:?}");
            assert_eq!(app.has(&at.0, &at.1).await, found.is_some());
        }
        _ => compare_page(app, model, &NAMES.list(rng)).await,
    }
}

async fn compare_page(app: &Tenant, model: &Model, query: &ListQuery) {
    let (mut lower, mut upper) = (String::new(), None);
    if let std::ops::Bound::Included(low) = &query.range.lower {
        lower.clone_from(low);
    }
    if let std::ops::Bound::Excluded(high) = &query.range.upper {
        upper = Some(high.clone());
    }
    let c = query.collection.as_str();
    let inside = |k: &str| k >= lower.as_str() && upper.as_deref().is_none_or(|high| k < high);
    let mut rest: Vec<_> = model
        .rows
        .keys()
        .filter(|at| at.0 == c && inside(&at.1))
        .filter_map(|at| Some((at.1.as_str(), model.find(at, app.now)?)))
        .collect();
    if query.reverse {
        rest.reverse();
    }
    let mut keys = Vec::new();
    let mut size = 0;
    for (k, row) in &rest {
        keys.push(*k);
        size += k.len()
            + if query.with_values {
                row.value.as_bytes().len()
            } else {
                0
            };
        if keys.len() == query.limit as usize || size >= query.bytes_max {
            break;
        }
    }
    let page = app.page(query).await;
    assert_eq!(keys_of(&page), keys, "{query:?}");
    assert_eq!(page.more, keys.len() < rest.len(), "{query:?}");
    for ((k, row), (found, entry)) in rest.iter().zip(&page.entries) {
        assert_eq!(found, &key(k));
        assert_eq!(entry.is_some(), query.with_values);
        if let Some(entry) = entry {
            assert_eq!((&entry.value, entry.version), (&row.value, row.version));
        }
    }
}

pub async fn random_operations_match_the_model(kit: Kit) {
    let mut app = kit.app().await;
    let mut rng = kit.rng();
    let mut model = Model::default();
    for _ in 0..1500 {
        step(&app, &mut model, &mut rng).await;
        app.now = app.now.plus_ms(rng.below(5) as u64);
    }
}

pub async fn apps_are_isolated_from_each_other(kit: Kit) {
    let mut rng = kit.rng();
    // Each app follows its own model with the same names, first in a random interleaving, then
    // concurrently.
    let mut sides = [
        (kit.app().await, Model::default(), rng.split()),
        (kit.app().await, Model::default(), rng.split()),
    ];
    for _ in 0..800 {
        let (app, model, choices) = &mut sides[rng.below(2)];
        step(app, model, choices).await;
        app.now = app.now.plus_ms(choices.below(5) as u64);
    }
    let together = sides.map(|(mut app, mut model, mut choices)| {
        tokio::spawn(async move {
            for _ in 0..300 {
                step(&app, &mut model, &mut choices).await;
                app.now = app.now.plus_ms(choices.below(5) as u64);
            }
        })
    });
    for side in together {
        side.await.expect("this app saw only its own entries");
    }
}
