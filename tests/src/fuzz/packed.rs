//! Structures packed by guests: batches, sequences of records, pages.

use kvasm::fuzzing;
use kvasm::model::{COLLECTION_BYTES_MAX, Collection, Expect, KEY_BYTES_MAX, Key, Op, Timestamp};
use kvasm_abi::{
    Address, Applied, BATCH_OPS_MAX, Batch, BatchCheck, BatchOp, Page, PageEntry, Record, Records,
    Slot, Status, encode_records,
};

/// The value limit of a test host.
const VALUE_BYTES: usize = 4096;

fn packed<'a, R: Record<'a>>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_records(records, &mut |piece: &[u8]| bytes.extend_from_slice(piece));
    bytes
}

/// A batch of `kv_commit`. A decoded batch encodes to the same bytes. The host accepts it
/// within the limits of names, values and counts, or rejects it with a status that blames the
/// guest.
pub fn batch(bytes: &[u8]) {
    let read = Batch::decode(bytes);
    let before = Timestamp::now();
    let taken = fuzzing::batch(bytes, VALUE_BYTES);
    let Ok(read) = read else {
        assert_eq!(taken.unwrap_err(), Some(Status::Invalid));
        return;
    };
    // The sizes of the smallest check and the smallest operation.
    assert!(read.checks.len() <= bytes.len() / 16 && read.ops.len() <= bytes.len() / 12);
    let (checks, ops): (Vec<_>, Vec<_>) = (read.checks.clone().collect(), read.ops.collect());
    assert_eq!(read.checks.len(), checks.len());
    let mut again = Vec::new();
    Batch::encode(&checks, &ops, &mut |piece: &[u8]| {
        again.extend_from_slice(piece)
    });
    assert_eq!(again, bytes, "the encoded batch differs from the input");
    match taken {
        Ok(taken) => {
            assert!(checks.len() + ops.len() <= BATCH_OPS_MAX);
            same_checks(&checks, &taken.checks);
            same_operations(&ops, &taken.ops, before);
        }
        Err(status) => {
            use Status::{Invalid, TooLarge, Unsupported};
            let is_the_guests = matches!(status, Some(Invalid | TooLarge | Unsupported));
            assert!(is_the_guests, "{status:?}");
        }
    }
}

fn same_checks(packed: &[BatchCheck<'_>], taken: &[kvasm::model::Check]) {
    assert_eq!(packed.len(), taken.len());
    for (packed, taken) in packed.iter().zip(taken) {
        same_address(packed.address, (&taken.collection, &taken.key));
        let version = match taken.expect {
            Expect::Absent => 0,
            Expect::Version(version) => version.0,
        };
        assert_eq!(packed.version, version);
    }
}

fn same_operations(packed: &[BatchOp<'_>], taken: &[Op], before: Timestamp) {
    let after = Timestamp::now();
    assert_eq!(packed.len(), taken.len());
    for (packed, taken) in packed.iter().zip(taken) {
        match (packed, taken) {
            (
                BatchOp::Set { value, ttl_ms, .. },
                Op::Set {
                    collection,
                    key,
                    value: taken,
                    expires_at,
                },
            ) => {
                same_address(packed.address(), (collection, key));
                assert_eq!(*value, taken.as_bytes());
                assert!(value.len() <= VALUE_BYTES);
                assert_eq!(*ttl_ms != 0, expires_at.is_some());
                let expected = before.plus_ms(*ttl_ms)..=after.plus_ms(*ttl_ms);
                assert!(expires_at.is_none_or(|at| expected.contains(&at)));
            }
            (BatchOp::Delete { address }, Op::Delete { collection, key }) => {
                same_address(*address, (collection, key));
            }
            (
                BatchOp::Increment { address, delta },
                Op::Increment {
                    collection,
                    key,
                    delta: taken,
                },
            ) => {
                same_address(*address, (collection, key));
                assert_eq!(delta, taken);
            }
            other => panic!("unexpected operation: {other:?}"),
        }
    }
}

fn same_address(packed: Address<'_>, (collection, key): (&Collection, &Key)) {
    assert_eq!(packed.collection, collection.as_str().as_bytes());
    assert_eq!(packed.key, key.as_str().as_bytes());
    assert!((1..=COLLECTION_BYTES_MAX).contains(&packed.collection.len()));
    assert!((1..=KEY_BYTES_MAX).contains(&packed.key.len()));
}

/// Sequences of every kind of record. Decoded records encode to the same bytes, and there are
/// no more of them than the bytes have room for.
pub fn records(bytes: &[u8]) {
    same_records::<Address<'_>>(bytes, 8);
    same_records::<u32>(bytes, 4);
    same_records::<Applied>(bytes, 16);
    same_records::<BatchCheck<'_>>(bytes, 16);
    same_records::<BatchOp<'_>>(bytes, 12);
    slots(bytes);
}

fn same_records<'a, R: Record<'a>>(bytes: &'a [u8], least: usize) {
    let Ok(read) = Records::<R>::decode(bytes) else {
        return;
    };
    let len = read.len();
    assert!(len <= bytes.len() / least, "{len} in {}", bytes.len());
    let read: Vec<R> = read.collect();
    assert_eq!(read.len(), len);
    assert_eq!(packed(&read), bytes);
}

/// A slot's header has four bytes that are not read, so this compares the slots.
fn slots(bytes: &[u8]) {
    let Ok(read) = Records::<Slot<'_>>::decode(bytes) else {
        return;
    };
    let read: Vec<_> = read.collect();
    let again = packed(&read);
    assert_eq!(again.len(), bytes.len());
    assert!(Records::<Slot<'_>>::decode(&again).unwrap().eq(read));
}

/// A page of `kv_list`, with and without values. A decoded page encodes to a page of the same
/// entries, and reading ends at the end of the bytes.
pub fn page(bytes: &[u8]) {
    for values in [false, true] {
        let Ok(page) = Page::decode(bytes, values) else {
            continue;
        };
        let mut entries = Vec::new();
        let mut malformed = 0;
        for entry in page.entries {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(_) => malformed += 1,
            }
        }
        assert!(malformed <= 1, "reading stops at a malformed entry");
        assert!(entries.len() <= bytes.len() / 4);
        let again = pack_page(page.cursor, &entries);
        assert!(again.len() <= bytes.len());
        let page_again = Page::decode(&again, values).unwrap();
        assert_eq!(page_again.cursor, page.cursor);
        assert!(page_again.entries.eq(entries.into_iter().map(Ok)));
    }
}

fn pack_page(cursor: Option<&[u8]>, entries: &[PageEntry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = |len: usize| (len as u32).to_le_bytes();
    let cursor = cursor.unwrap_or_default();
    bytes.extend_from_slice(&len(entries.len()));
    bytes.extend_from_slice(&len(cursor.len()));
    bytes.extend_from_slice(cursor);
    for entry in entries {
        bytes.extend_from_slice(&len(entry.key.len()));
        bytes.extend_from_slice(entry.key);
        if let Some((header, value)) = entry.value {
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(&len(value.len()));
            bytes.extend_from_slice(value);
        }
    }
    bytes
}
