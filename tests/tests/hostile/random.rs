//! Random bytes as batches, keys and ids, through wasm: the host always responds, never with a
//! host error, and a rejection changes nothing.

use super::packed::{ImportResult, PackedGuest, at, batch, records};
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm_abi::{Address, Batch, BatchCheck, BatchOp, Records, Slot, Status};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CASES: u32 = 400;

/// A name that is usually valid.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::sample::select(vec!["a", "b", "c"]).prop_map(|name| name.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
        1 => (120usize..1_100).prop_map(|len| vec![b'x'; len]),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        2 => proptest::sample::select(vec!["1.5", "[1,{}]", "\"text\"", "1e3", "{", "\"\\u0000\""])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

/// A check or an operation, as numbers and names.
type Part = (u8, Vec<u8>, Vec<u8>, u64, Vec<u8>);

fn part(number: impl Strategy<Value = u64>) -> impl Strategy<Value = Part> {
    (any::<u8>(), name(), name(), number, value())
}

fn packed(parts: &[Part]) -> Vec<u8> {
    let (mut checks, mut ops) = (Vec::new(), Vec::new());
    for (kind, collection, key, number, value) in parts {
        let address = at(collection, key);
        match kind % 8 {
            0 => checks.push(BatchCheck {
                address,
                version: *number,
            }),
            1 | 2 => ops.push(BatchOp::Delete { address }),
            3 | 4 => ops.push(BatchOp::Increment {
                address,
                delta: number.cast_signed(),
            }),
            kind => ops.push(BatchOp::Set {
                address,
                format: if kind == 7 { 1 } else { 0 },
                ttl_ms: if *number < 5 {
                    0
                } else {
                    number.saturating_add(100_000)
                },
                value,
            }),
        }
    }
    batch(&checks, &ops)
}

/// Valid bytes, damaged at random.
fn damaged(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3);
    (bytes, damage, any::<bool>(), 0u8..10).prop_map(|(mut bytes, damage, spare, cut)| {
        for (place, byte) in if spare { &[][..] } else { &damage } {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
        }
        if cut == 0 {
            bytes.pop();
        }
        bytes
    })
}

fn batches() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![Just(0), 1u64..40, any::<u64>()];
    let parts = proptest::collection::vec(part(number), 0..6);
    prop_oneof![
        4 => damaged(parts.prop_map(|parts| packed(&parts))),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
    ]
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    let keys = proptest::collection::vec((name(), name()), 0..6).prop_map(|keys| {
        let keys: Vec<Address<'_>> = keys.iter().map(|(c, k)| at(c, k)).collect();
        records(&keys)
    });
    prop_oneof![
        4 => damaged(keys),
        1 => proptest::collection::vec(any::<u8>(), 0..100),
    ]
}

/// Whether a guest can cause this rejection by its arguments.
fn is_the_guests_fault(answer: &ImportResult) -> bool {
    use Status::{Conflict, Invalid, TooLarge, Type};
    matches!(answer.status(), Some(Conflict | Invalid | TooLarge | Type))
}

/// Runs cases on one guest; proptest shrinks the one that fails.
fn run<T: std::fmt::Debug>(
    strategy: &impl Strategy<Value = T>,
    case: impl AsyncFn(&PackedGuest, T) -> Result<(), TestCaseError>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let guest = runtime.block_on(async {
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        PackedGuest::over(SqliteStore::open(options).await.unwrap()).await
    });
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        // A case that depends on leftovers of earlier cases cannot be shrunk.
        max_shrink_iters: 2_000,
        ..Config::with_cases(CASES)
    });
    let ran = runner.run(strategy, |value| runtime.block_on(case(&guest, value)));
    if let Err(error) = ran {
        panic!("{error}");
    }
}

#[test]
fn random_batch_is_committed_or_rejected_atomically() {
    run(&batches(), async |guest, bytes| {
        let before = guest.entries().await;
        let answer = guest.commit_bytes(bytes.clone()).await;
        let batch = Batch::decode(&bytes);
        if answer.result < 0 {
            prop_assert!(is_the_guests_fault(&answer), "{answer:?}");
            prop_assert_eq!(guest.entries().await, before, "{:?}", answer);
            if batch.is_err() {
                prop_assert_eq!(answer.status(), Some(Status::Invalid));
            }
            if answer.status() == Some(Status::Conflict) {
                let checks = batch.unwrap().checks.len() as u32;
                let mut failed = Records::<u32>::decode(&answer.slot).unwrap();
                prop_assert!(failed.len() > 0 && failed.all(|at| at < checks));
            }
        } else {
            let ops = batch.unwrap().ops;
            let applied = answer.applied();
            prop_assert_eq!(applied.len(), ops.len());
            for (op, (result, value)) in ops.zip(applied) {
                match op {
                    BatchOp::Set { .. } => prop_assert!(result > 0 && value == 0),
                    BatchOp::Delete { .. } => prop_assert!(result <= 1 && value == 0),
                    BatchOp::Increment { .. } => prop_assert!(result > 0),
                    _ => prop_assert!(false, "a timer without a handler"),
                }
            }
        }
        Ok(())
    });
}

/// A transaction with a single commit is equivalent to that commit. The transaction has its own
/// versions, so checks are for absence, or for a version that no entry has.
#[test]
fn random_batch_behaves_the_same_in_a_transaction() {
    let number = prop_oneof![3 => Just(0), 2 => (1u64 << 63)..];
    let parts = proptest::collection::vec(part(number), 0..12);
    let batches = damaged(parts.prop_map(|parts| packed(&parts)));
    let batches = proptest::collection::vec(batches, 1..4);
    let other = tokio::sync::OnceCell::new();
    run(&batches, async |guest, batches| {
        let other = other.get_or_init(PackedGuest::in_transaction).await;
        guest.clear().await;
        other.clear().await;
        for bytes in batches {
            let alone = guest.commit_bytes(bytes.clone()).await;
            let within = other.commit_bytes(bytes.clone()).await;
            prop_assert_eq!(alone.status(), within.status(), "{:?} {:?}", alone, within);
            prop_assert_eq!(&alone.message, &within.message);
            if alone.result < 0 {
                prop_assert_eq!(alone.slot, within.slot);
            } else {
                let ops = Batch::decode(&bytes).unwrap().ops;
                for (op, (one, two)) in ops.zip(alone.applied().iter().zip(within.applied())) {
                    let is_delete = matches!(op, BatchOp::Delete { .. });
                    prop_assert_eq!(one.1, two.1);
                    prop_assert!(!is_delete || one.0 == two.0, "{one:?} {two:?}");
                }
            }
            prop_assert_eq!(guest.values().await, other.values().await);
        }
        Ok(())
    });
}

#[test]
fn random_key_lists_never_cause_a_host_error() {
    run(&keys(), async |guest, bytes| {
        let answer = guest.get_many_bytes(bytes.clone()).await;
        let keys = Records::<Address<'_>>::decode(&bytes);
        if answer.result < 0 {
            prop_assert!(is_the_guests_fault(&answer), "{answer:?}");
        } else {
            let slots = Records::<Slot<'_>>::decode(&answer.slot).unwrap();
            prop_assert_eq!(slots.len(), keys.unwrap().len());
        }
        Ok(())
    });
}

#[test]
fn random_dead_letter_ids_never_cause_a_host_error() {
    let before = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}".prop_map(String::into_bytes),
        "[0-9a-fA-F-]{30,38}".prop_map(String::into_bytes),
    ];
    let limit = prop_oneof![any::<i32>(), 0..=1_000];
    run(&(before, limit), async |guest, (before, limit)| {
        let answer = guest
            .call(PackedGuest::dead_letters_call(&before, limit))
            .await;
        if answer.result < 0 {
            prop_assert!(is_the_guests_fault(&answer), "{answer:?}");
        } else {
            prop_assert_eq!(answer.slot, b"{\"letters\":[],\"next\":null}");
        }
        Ok(())
    });
}
