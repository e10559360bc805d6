//! A guest that passes bytes to the imports that take packed records.

use kvasm::model::{Collection, Entry, Key, Pieces, Timestamp};
use kvasm::service::{Caller, List};
use kvasm::store::Store;
use kvasm::{Call, Plugin};
use kvasm_abi::{Address, Applied, Batch, BatchCheck, BatchOp, Records, Status, encode_records};
use kvasm_tests::guests::{TestHost, manifest, module_with};

/// The result of an import.
#[derive(Debug)]
pub struct ImportResult {
    pub result: i64,
    /// The contents of the result slot: the whole result, as the guest provides no buffer.
    pub slot: Vec<u8>,
    pub message: String,
}

impl ImportResult {
    pub fn status(&self) -> Option<Status> {
        Status::from_code(self.result)
    }

    /// Asserts the status and parts of the message of a rejection.
    #[track_caller]
    pub fn expect_status(&self, status: Status, words: &[&str]) {
        let (message, result) = (&self.message, self.result);
        assert_eq!(self.status(), Some(status), "{result}: {message}");
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }

    /// The results of the operations of a committed batch.
    #[track_caller]
    pub fn applied(&self) -> Vec<(u64, i64)> {
        assert!(self.result >= 0, "{}: {}", self.result, self.message);
        let applied = Records::<Applied>::decode(&self.slot).unwrap();
        applied.map(|done| (done.result, done.value)).collect()
    }
}

/// A host and the guest.
pub struct PackedGuest {
    pub bench: TestHost,
    plugin: Plugin,
}

/// Reads the input to the second page, which has room after it, and reports the result of an
/// import.
const PARTS: &str = "
    (func $in (result i32)
        (drop (memory.grow (i32.const 300)))
        (i32.wrap_i64 (call $input_read
            (i32.const 0) (i32.const 65536) (i32.wrap_i64 (call $input_len)))))
    (func $tell (param $result i64) (result i32)
        (i64.store (i32.const 0) (local.get $result))
        (i64.store (i32.const 8) (call $result_read
            (i32.const 0) (i32.const 65536) (i32.const 0x800000)))
        (drop (call $output_write (i32.const 0) (i32.const 16)))
        (drop (call $output_write (i32.const 65536) (i32.wrap_i64 (i64.load (i32.const 8)))))
        (drop (call $output_write (i32.const 65536) (i32.wrap_i64
            (call $error_message (i32.const 65536) (i32.const 0x100000)))))
        (i32.const 0))
    (func (export \"get_many\") (result i32)
        (call $tell (call $kv_get_many (i32.const 65536) (call $in) (i32.const 0) (i32.const 0))))
    (func (export \"letters\") (result i32)
        (call $tell (call $dead_letters
            (i32.const 65540) (i32.sub (call $in) (i32.const 4)) (i32.load (i32.const 65536))
            (i32.const 0) (i32.const 0))))
    (func (export \"replay\") (result i32)
        (call $tell (call $dead_letter_replay (i32.const 65536) (call $in))))";
const COMMIT: &str =
    "(call $tell (call $kv_commit (i32.const 65536) (call $in) (i32.const 0) (i32.const 0)))";

impl PackedGuest {
    pub async fn new() -> PackedGuest {
        PackedGuest::on(TestHost::new().await).await
    }

    pub async fn over(store: impl Store) -> PackedGuest {
        PackedGuest::on(TestHost::over(store).await).await
    }

    /// As `new`, but the guest's function `run`, which commits batches, is a transaction.
    pub async fn in_transaction() -> PackedGuest {
        let run = "{\"kind\":\"function\",\"name\":\"run\",\"transaction\":true}";
        let parts = format!("{} {PARTS}", manifest(&[run]));
        PackedGuest::of(TestHost::new().await, &parts).await
    }

    async fn on(bench: TestHost) -> PackedGuest {
        PackedGuest::of(bench, PARTS).await
    }

    async fn of(bench: TestHost, parts: &str) -> PackedGuest {
        let plugin = bench.load(module_with("", parts, COMMIT)).await;
        PackedGuest { bench, plugin }
    }

    pub async fn call(&self, call: Call) -> ImportResult {
        let output = self.bench.host.call(&self.plugin, call).await.unwrap();
        let (head, rest) = output.output.split_at(16);
        let (result, slot) = head.split_at(8);
        let len = u64::from_le_bytes(slot.try_into().unwrap());
        let (slot, message) = rest.split_at(len as usize);
        ImportResult {
            result: i64::from_le_bytes(result.try_into().unwrap()),
            slot: slot.to_vec(),
            message: String::from_utf8(message.to_vec()).unwrap(),
        }
    }

    /// Commits packed bytes unchanged.
    pub async fn commit_bytes(&self, packed: impl Into<Pieces>) -> ImportResult {
        self.call(Call::function("run").input(packed)).await
    }

    pub async fn commit(&self, checks: &[BatchCheck<'_>], ops: &[BatchOp<'_>]) -> ImportResult {
        self.commit_bytes(batch(checks, ops)).await
    }

    /// Reads packed keys unchanged.
    pub async fn get_many_bytes(&self, packed: impl Into<Pieces>) -> ImportResult {
        self.call(Call::function("get_many").input(packed)).await
    }

    pub async fn get_many(&self, keys: &[Address<'_>]) -> ImportResult {
        self.get_many_bytes(records(keys)).await
    }

    pub fn dead_letters_call(before: &[u8], limit: i32) -> Call {
        Call::function("letters").input([&limit.to_le_bytes(), before].concat())
    }

    pub async fn replay(&self, letter: &[u8]) -> ImportResult {
        self.call(Call::function("replay").input(letter.to_vec()))
            .await
    }

    /// Keys and values of the app.
    pub async fn values(&self) -> Vec<String> {
        let entry = |name: &Collection, key: &Key, entry: &Option<Entry>| {
            let value = entry.as_ref().map(|entry| &entry.value);
            format!("{name:?} {key:?} {value:?}")
        };
        self.each_entry(entry).await
    }

    /// Every entry of the app, with all fields.
    pub async fn entries(&self) -> Vec<String> {
        self.each_entry(|name, key, entry| format!("{name:?} {key:?} {entry:?}"))
            .await
    }
    async fn each_entry(
        &self,
        show: impl Fn(&Collection, &Key, &Option<Entry>) -> String,
    ) -> Vec<String> {
        let (store, app) = (self.bench.host.store(), &self.bench.app);
        let caller = Caller::new(app, None);
        let mut all = Vec::new();
        for name in store.collections(app.id, None, 1_000).await.unwrap() {
            let list = List {
                with_values: true,
                ..List::all(name.clone())
            };
            let page = self.bench.host.kv().list(&caller, list).await.unwrap();
            assert!(page.cursor.is_none());
            let entries = page.entries.iter();
            all.extend(entries.map(|(key, entry)| show(&name, key, entry)));
        }
        all
    }

    /// Deletes every entry.
    pub async fn clear(&self) {
        let (store, app) = (self.bench.host.store(), &self.bench.app);
        let caller = Caller::new(app, None);
        let kv = self.bench.host.kv();
        for name in store.collections(app.id, None, 1_000).await.unwrap() {
            let page = kv.list(&caller, List::all(name.clone())).await.unwrap();
            for (key, _) in page.entries {
                kv.delete(&caller, (name.clone(), key), None).await.unwrap();
            }
        }
    }

    /// Asserts that nothing was written.
    pub async fn assert_empty(&self) {
        assert_eq!(self.entries().await, Vec::<String>::new());
    }

    pub async fn value(&self, c: &str, k: &str) -> Option<String> {
        let (c, k) = (Collection::parse(c).unwrap(), Key::parse(k).unwrap());
        let (store, id) = (self.bench.host.store(), self.bench.app.id);
        let entry = store.get(id, &c, &k, Timestamp::now()).await.unwrap();
        entry.map(|entry| String::from_utf8(entry.value.as_bytes().to_vec()).unwrap())
    }
}

pub fn batch(checks: &[BatchCheck<'_>], ops: &[BatchOp<'_>]) -> Vec<u8> {
    let mut packed = Vec::new();
    Batch::encode(checks, ops, &mut |piece: &[u8]| {
        packed.extend_from_slice(piece)
    });
    packed
}

pub fn records<'a, R: kvasm_abi::Record<'a>>(of: &[R]) -> Vec<u8> {
    let mut packed = Vec::new();
    encode_records(of, &mut |piece: &[u8]| packed.extend_from_slice(piece));
    packed
}

pub fn at<'a>(
    collection: &'a (impl AsRef<[u8]> + ?Sized),
    key: &'a (impl AsRef<[u8]> + ?Sized),
) -> Address<'a> {
    Address {
        collection: collection.as_ref(),
        key: key.as_ref(),
    }
}

/// A check that an entry has a version; 0 means that it must not exist.
pub fn check<'a>(c: &'a str, k: &'a str, version: u64) -> BatchCheck<'a> {
    BatchCheck {
        address: at(c, k),
        version,
    }
}

/// A set of JSON.
pub fn set<'a>(c: &'a str, k: &'a str, value: &'a str) -> BatchOp<'a> {
    set_as(at(c, k), 0, value.as_bytes())
}

pub fn set_as<'a>(address: Address<'a>, format: u32, value: &'a [u8]) -> BatchOp<'a> {
    BatchOp::Set {
        address,
        format,
        ttl_ms: 0,
        value,
    }
}

pub fn delete<'a>(c: &'a str, k: &'a str) -> BatchOp<'a> {
    BatchOp::Delete { address: at(c, k) }
}

pub fn add<'a>(c: &'a str, k: &'a str, delta: i64) -> BatchOp<'a> {
    BatchOp::Increment {
        address: at(c, k),
        delta,
    }
}
