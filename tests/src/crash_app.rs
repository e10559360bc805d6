//! Shared by the crash suite and the process that it kills: an app whose handlers count the
//! changes that they receive, and record each one out of order.

use crate::guests::{manifest, module_with};
use kvasm::Host;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{
    App, AppName, Collection, DeadLetterFilter, Delivery, Entry, Key, Limits, Version,
};
use kvasm::service::Caller;
use kvasm::store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store};
use std::sync::Arc;
use std::time::Duration;

const APP: &str = "crash";

/// A change is a key of three bytes and a number of nine digits, as bytes. Under "l" or "r"
/// followed by the key, the handlers of both collections store the last number in "seen" and
/// the count in "count". A number that does not follow the last one is recorded in "odd".
fn plugin() -> Vec<u8> {
    let watch = |name: &str| {
        format!("{{\"kind\":\"on_change\",\"name\":\"{name}\",\"collection\":\"{name}\"}}")
    };
    let section = manifest(&[&watch("left"), &watch("right")]);
    let parts = format!(
        "{section}
        (func $number (param $at i32) (result i64)
            (local $n i64) (local $end i32)
            (local.set $end (i32.add (local.get $at) (i32.const 9)))
            (loop $digits
                (local.set $n (i64.add
                    (i64.mul (local.get $n) (i64.const 10))
                    (i64.sub (i64.load8_u (local.get $at)) (i64.const 48))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br_if $digits (i32.lt_u (local.get $at) (local.get $end))))
            (local.get $n))
        ;; At 100 the side and the key, at 104 the number, at 200 the last number.
        (func $tell (param $side i32) (result i32)
            (local $last i64) (local $found i64)
            (i32.store8 (i32.const 100) (local.get $side))
            (drop (call $input_read
                (i32.sub (i32.wrap_i64 (call $input_len)) (i32.const 12))
                (i32.const 101) (i32.const 12)))
            (local.set $found (call $kv_get
                (i32.const 0) (i32.const 4) (i32.const 100) (i32.const 4)
                (i32.const 1) (i32.const 0) (i32.const 200) (i32.const 9)))
            (if (i64.eq (local.get $found) (i64.const 9))
                (then (local.set $last (call $number (i32.const 200))))
                (else (if (i64.ne (local.get $found) (i64.const -1)) (then (return (i32.const 1))))))
            (if (i64.ne (call $number (i32.const 104)) (i64.add (local.get $last) (i64.const 1)))
                (then (if (i64.lt_s (call $kv_set
                        (i32.const 9) (i32.const 3) (i32.const 100) (i32.const 13)
                        (i32.const 200) (i32.const 9) (i32.const 1) (i32.const 0)) (i64.const 0))
                    (then (return (i32.const 1))))))
            (if (i64.lt_s (call $kv_set
                    (i32.const 0) (i32.const 4) (i32.const 100) (i32.const 4)
                    (i32.const 104) (i32.const 9) (i32.const 1) (i32.const 0)) (i64.const 0))
                (then (return (i32.const 1))))
            (i64.lt_s (call $kv_increment
                (i32.const 4) (i32.const 5) (i32.const 100) (i32.const 4)
                (i64.const 1) (i32.const 300)) (i64.const 0)))
        (func (export \"left\") (result i32) (call $tell (i32.const 108)))
        (func (export \"right\") (result i32) (call $tell (i32.const 114)))"
    );
    module_with("seencountodd", &parts, "(i32.const 0)")
}

/// Opens a store by its file or its URL.
pub async fn open(place: &str) -> Arc<dyn Store> {
    if place.starts_with("postgres") {
        let options = PostgresOptions {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(60),
            statement_timeout: Duration::from_secs(60),
            ..PostgresOptions::new(place)
        };
        return Arc::new(PostgresStore::connect(options).await.unwrap());
    }
    Arc::new(SqliteStore::open(SqliteOptions::new(place)).await.unwrap())
}

/// Short leases, so that claims of a killed host are soon claimed again.
pub fn options() -> DispatchOptions {
    DispatchOptions {
        lease_min: Duration::from_secs(1),
        poll: Duration::from_millis(50),
        ..DispatchOptions::default()
    }
}

/// The app on a host.
pub struct CrashApp {
    /// The host.
    pub host: Host,
    /// The app.
    pub app: App,
}

impl CrashApp {
    /// Opens the app over a store, and creates it if necessary.
    pub async fn over(store: Arc<dyn Store>) -> CrashApp {
        let limits = Limits {
            wall_time: Duration::from_secs(1),
            ..Limits::default()
        };
        let host = Host::builder().shared_store(store).instances(32);
        let host = host.limits(limits).build().unwrap();
        let name = AppName::parse(APP).unwrap();
        if host.app(&name).await.unwrap().is_none() {
            let app = host.create_app(name.clone()).await.unwrap();
            let actor = host.operator("a test");
            host.deploy(&actor, &app, plugin(), true).await.unwrap();
        }
        let app = host.app(&name).await.unwrap().unwrap();
        CrashApp { host, app }
    }

    /// Reads entries in one snapshot.
    async fn get_many<const N: usize>(&self, names: [(&str, &str); N]) -> [Option<Entry>; N] {
        let names = names.map(|(c, k)| (Collection::parse(c).unwrap(), key(k)));
        let caller = Caller::new(&self.app, None);
        let found = self.host.kv().get_many(&caller, &names).await.unwrap();
        found.try_into().unwrap()
    }

    /// The last number under a key in both collections, and its version.
    pub async fn last(&self, name: &str) -> [(u64, Option<Version>); 2] {
        let found = self.get_many([("left", name), ("right", name)]).await;
        found.map(|entry| (number(entry.as_ref(), 3), entry.map(|entry| entry.version)))
    }

    /// The last number of a key that both handlers have received.
    pub async fn delivered(&self, name: &str) -> u64 {
        let [left, right] = self.of_handlers("seen", name).await;
        left.min(right)
    }

    /// What both handlers have stored for a key in a collection.
    pub async fn of_handlers(&self, c: &str, name: &str) -> [u64; 2] {
        let sides = ["l", "r"].map(|side| format!("{side}{name}"));
        let found = self.get_many([(c, &sides[0]), (c, &sides[1])]).await;
        found.map(|entry| number(entry.as_ref(), 0))
    }

    /// All keys that were written.
    pub async fn keys(&self, c: &str) -> Vec<String> {
        let caller = Caller::new(&self.app, None);
        let list = kvasm::service::List::all(Collection::parse(c).unwrap());
        let page = self.host.kv().list(&caller, list).await.unwrap();
        assert!(page.cursor.is_none());
        let keys = page.entries.into_iter();
        keys.map(|(key, _)| key.as_str().to_owned()).collect()
    }

    /// The outstanding deliveries.
    pub async fn outstanding(&self) -> Vec<Delivery> {
        let all = self
            .host
            .store()
            .deliveries(self.app.id, None, 10_000)
            .await;
        all.unwrap()
    }

    /// The number of dead letters.
    pub async fn dead_letters(&self) -> usize {
        let (store, all) = (self.host.store(), DeadLetterFilter::default());
        let letters = store.dead_letters(self.app.id, &all, None, 1_000).await;
        letters.unwrap().len()
    }
}

/// A key.
pub fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

/// The number in an entry after `skip` bytes; 0 if it is absent.
fn number(entry: Option<&Entry>, skip: usize) -> u64 {
    let Some(entry) = entry else { return 0 };
    let text = std::str::from_utf8(entry.value.as_bytes()).unwrap();
    text[skip..].parse().unwrap()
}
