//! The cost of functions, as the in-process host counts it.

use kvasm_guest::kv::{self, Batch, SetOptions};
use kvasm_guest::{Bytes, Error, testing};

#[test]
fn reads_and_writes_are_counted_as_by_the_host() {
    let c = kv::collection("c");
    let ((), cost) = testing::cost_of(|| {
        c.set("k", &123).unwrap();
        c.get::<u32>("k").unwrap();
        c.get::<u32>("absent").unwrap();
        assert!(!c.has("absent").unwrap());
        c.increment("n", 5).unwrap();
        c.delete("n").unwrap();
        // Rejected calls read and write nothing.
        c.set_with("k", &1, SetOptions::new().if_version(0))
            .unwrap_err();
        c.get::<u32>("").unwrap_err();
    });
    assert_eq!((cost.entries_read, cost.bytes_read), (3, 3));
    assert_eq!((cost.entries_written, cost.bytes_written), (3, 3));
    assert_eq!(cost.host_calls, 8);
    // A value that is read as another type was read.
    c.set_bytes("raw", b"four").unwrap();
    let (_, cost) = testing::cost_of(|| c.get::<u32>("raw").unwrap_err());
    assert_eq!((cost.entries_read, cost.bytes_read), (1, 4));
}

#[test]
fn lists_and_batches_are_counted_by_entry() {
    let c = kv::collection("c");
    let (result, cost) = testing::cost_of(|| {
        let batch = Batch::new().set(&c, "a", &1).set(&c, "b", &22);
        batch.increment(&c, "n", 1).commit()
    });
    result.unwrap();
    assert_eq!((cost.entries_written, cost.bytes_written), (3, 3));
    let (result, cost) = testing::cost_of(|| {
        let stale = Batch::new().check_absent(&c, "a").set(&c, "a", &2);
        stale.commit()
    });
    result.unwrap_err();
    assert_eq!((cost.entries_written, cost.host_calls), (0, 1));
    let (found, cost) = testing::cost_of(|| c.get_many::<u32>(&["a", "b", "absent"]));
    assert_eq!(found.unwrap(), [Some(1), Some(22), None]);
    assert_eq!((cost.entries_read, cost.bytes_read), (3, 3));
    let (entries, cost) = testing::cost_of(|| c.list().entries::<u32>().count());
    assert_eq!((entries, cost.entries_read, cost.bytes_read), (3, 3, 4));
    let (keys, cost) = testing::cost_of(|| c.list().keys().count());
    assert_eq!((keys, cost.entries_read, cost.bytes_read), (3, 3, 0));
}

#[test]
fn rolled_back_run_has_a_cost() {
    fn fail(_: Bytes) -> Result<(), String> {
        let c = kv::collection("c");
        c.set("k", &1).map_err(|e: Error| e.to_string())?;
        Err("no".to_owned())
    }
    let run = || testing::transaction(|| testing::call(fail, ""));
    let (result, cost) = testing::cost_of(run);
    result.unwrap_err();
    assert_eq!((cost.entries_written, cost.bytes_written), (1, 1));
    let (_, cost) = testing::cost_of(testing::reset);
    assert_eq!(cost.host_calls, 0);
}
