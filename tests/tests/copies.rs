//! How often a large request, and what a plugin answers, are copied outside wasm:
//! once. What is copied needs a buffer, so the large buffers are counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    unsafe_code
)]

use kvasm::model::{
    Claim, Collection, Delivery, Key, Limits, Op, Receipt, Timestamp, Value, WriteBatch,
};
use kvasm::service::{Caller as ServiceCaller, Write as Set};
use kvasm::store::{MemoryStore, Store};
use kvasm::wasmtime::Caller;
use kvasm::{Call, Host, HostBuilder, Invocation};
use kvasm_tests::guests::{Bench, manifest, module_with};
use kvasm_tests::server::Server;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

const MIB: usize = 1 << 20;
/// A larger buffer holds a good part of a body. Connections use smaller ones.
const LARGE: usize = MIB / 4;

/// The bytes of all large buffers that were ever made.
static MADE: AtomicUsize = AtomicUsize::new(0);
/// One test at a time: they count what the process does.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Counting;

fn count(size: usize) {
    if size >= LARGE {
        MADE.fetch_add(size, Ordering::SeqCst);
    }
}

// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    /// A buffer that grows may be copied as a whole.
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes of the large buffers that are made meanwhile.
async fn made<T>(work: impl Future<Output = T>) -> (usize, T) {
    let before = MADE.load(Ordering::SeqCst);
    let done = work.await;
    (MADE.load(Ordering::SeqCst) - before, done)
}

fn patient(builder: HostBuilder) -> HostBuilder {
    // On a busy machine it takes long.
    builder.limits(Limits {
        wall_time: Duration::from_secs(60),
        cpu_time: Duration::from_secs(60),
        ..Limits::default()
    })
}

/// Where the guests have their input.
const AT: usize = 64 * 1024;

/// Reads the input to [`AT`], into memory that has grown for it, and leaves its length in
/// the local `n`.
fn read_input() -> String {
    format!(
        "(local $n i32)
         (drop (memory.grow (i32.const 140)))
         (local.set $n (i32.wrap_i64
            (call $input_read (i32.const 0) (i32.const {AT}) (i32.const {}))))",
        8 * MIB
    )
}

/// Writes the input as output.
fn write_input() -> String {
    format!("(drop (call $output_write (i32.const {AT}) (local.get $n)))")
}

/// The byte at a place of a body.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// Sends a request with a body of `len` bytes and takes the answer, which must end with
/// the same bytes. Uses no large buffer itself. Returns the start of the answer.
fn exchange(address: SocketAddr, head: &str, len: usize) -> String {
    const PART: usize = 64 * 1024;
    let mut stream = TcpStream::connect(address).unwrap();
    let minute = Some(Duration::from_secs(60));
    stream.set_read_timeout(minute).unwrap();
    stream.set_write_timeout(minute).unwrap();
    let head = format!("{head}\r\nHost: t\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut part = vec![0; PART];
    for start in (0..len).step_by(PART) {
        let some = PART.min(len - start);
        for (at, to) in part[..some].iter_mut().enumerate() {
            *to = byte(start + at);
        }
        stream.write_all(&part[..some]).unwrap();
    }
    let mut first = Vec::new();
    while !first.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut part[..1]).unwrap();
        assert_eq!(read, 1, "the answer ended early");
        first.push(part[0]);
    }
    let text = String::from_utf8(first).unwrap();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().unwrap())
    });
    let Some(length) = length.filter(|length| *length >= len) else {
        panic!("{text}");
    };
    // What a handler is sent begins with a frame.
    let frame = length - len;
    let mut read = 0;
    loop {
        let some = stream.read(&mut part).unwrap();
        if some == 0 {
            break;
        }
        for at in (read..read + some).filter(|at| *at >= frame) {
            assert_eq!(part[at - read], byte(at - frame), "the byte at {at}");
        }
        read += some;
    }
    assert_eq!(read, length, "{text}");
    text
}

async fn measured(server: &Server, head: &'static str, len: usize) -> (usize, String) {
    let address = server.address;
    let exchanged = tokio::task::spawn_blocking(move || exchange(address, head, len));
    let (made, answer) = made(exchanged).await;
    (made, answer.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_copies_its_input_once_and_its_output_once() {
    let _alone = ALONE.lock().await;
    let server = Server::with(patient).await;
    let body = [&read_input(), &write_input(), "(i32.const 0)"].join(" ");
    server.deployed("app", module_with("", "", &body)).await;
    let head = "POST /v1/apps/app/call/run HTTP/1.1";
    // What is made once is made now.
    measured(&server, head, 1).await;
    let (made, answer) = measured(&server, head, 8 * MIB).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(made <= 16 * MIB, "{made} bytes for 8 MiB in and 8 MiB out");
    assert!(made >= 15 * MIB, "{made} bytes: it is not counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_a_handler_is_copied_once_with_its_head() {
    const BODY: usize = 7 * MIB;
    let _alone = ALONE.lock().await;
    let server = Server::with(patient).await;
    let head = r#"{"status":200}"#;
    let data: String = head.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let body = format!(
        "{} (drop (call $output_write (i32.const 0) (i32.const {}))) {} (i32.const 0)",
        read_input(),
        4 + head.len(),
        write_input()
    );
    let http = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    let wasm = module_with(
        &format!("\\{:02x}\\00\\00\\00{data}", head.len()),
        &http,
        &body,
    );
    server.deployed("app", wasm).await;
    let head = "POST /a/app/x HTTP/1.1";
    measured(&server, head, 1).await;
    let (made, answer) = measured(&server, head, BODY).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let most = 2 * BODY + LARGE;
    assert!(made <= most, "{made} bytes for 7 MiB in and 7 MiB out");
}

/// A host on which "meanwhile" changes what a run has read, so often.
async fn losing(times: u32) -> Bench {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (of_guest, left) = (Arc::clone(&store), Arc::new(AtomicU32::new(times)));
    let extend = |builder: HostBuilder| {
        builder.extend(move |linker| {
            linker.func_wrap_async(
                "test_v1",
                "meanwhile",
                move |caller: Caller<'_, Invocation>, ()| {
                    let (store, left) = (Arc::clone(&of_guest), Arc::clone(&left));
                    let app = caller.data().guest_state().caller().app();
                    Box::new(async move {
                        let less = |left: u32| left.checked_sub(1);
                        let order = Ordering::Relaxed;
                        let Ok(left) = left.fetch_update(order, order, less) else {
                            return;
                        };
                        let op = Op::Set {
                            collection: Collection::parse("c").unwrap(),
                            key: Key::parse("k").unwrap(),
                            value: Value::json(left.to_string(), 100).unwrap(),
                            expires_at: None,
                        };
                        let batch = WriteBatch {
                            ops: vec![op],
                            ..WriteBatch::new(app, Timestamp::now())
                        };
                        store.commit(batch).await.unwrap();
                    })
                },
            )?;
            Ok(())
        })
    };
    Bench::with(|builder| extend(patient(builder)).shared_store(store)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runs_of_a_transaction_share_their_input() {
    const LOST: u32 = 3;
    let _alone = ALONE.lock().await;
    let bench = losing(LOST).await;
    let transaction = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let key = "(i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)";
    let text = format!(
        "(module
            (import \"kvasm_v1\" \"kv_has\" (func $kv_has (param i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"kv_increment\"
                (func $kv_increment (param i32 i32 i32 i32 i64 i32) (result i64)))
            (import \"kvasm_v1\" \"input_read\"
                (func $input_read (param i32 i32 i32) (result i64)))
            (import \"test_v1\" \"meanwhile\" (func $meanwhile))
            (memory (export \"memory\") 1) (data (i32.const 0) \"ck\") {transaction}
            (func (export \"run\") (result i32) {}
                (drop (call $kv_has {key}))
                (call $meanwhile)
                (drop (call $kv_increment {key} (i64.const 1) (i32.const 8)))
                (i32.ne (local.get $n) (i32.const {}))))",
        read_input(),
        8 * MIB
    );
    let plugin = bench.load(wat::parse_str(text).unwrap()).await;
    let input = vec![7; 8 * MIB];
    let call = Call::function("run").input(input);
    let (made, response) = made(bench.host.call(&plugin, call)).await;
    let lost = response.unwrap().discarded.len();
    assert_eq!(lost, LOST as usize, "the runs that were lost");
    assert_eq!(made, 0, "an owned input is not copied");
}

/// The delivery that is due.
async fn claimed(host: &Host) -> (Delivery, Receipt) {
    let now = Timestamp::now();
    let queues = host.store().due(None, now, 1).await.unwrap();
    let claim = Claim {
        queue: queues[0].clone(),
        now,
        until: now.plus_ms(600_000),
        lease: Uuid::new_v4(),
        limit: 1,
    };
    let mut deliveries = host.store().claim(&claim).await.unwrap();
    let delivery = deliveries.remove(0);
    let receipt = Receipt {
        app: claim.queue.app,
        place: delivery.place.clone(),
        lease: claim.lease,
    };
    (delivery, receipt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_reads_the_value_of_the_delivery_itself() {
    let _alone = ALONE.lock().await;
    let bench = Bench::with(patient).await;
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    // Its last bytes, which tell that all of it was there.
    let body = format!(
        "{} (i64.ne (i64.load (i32.sub (i32.add (local.get $n) (i32.const {AT})) (i32.const 8)))
            (i64.const 0x0706050403020100))",
        read_input()
    );
    let (host, actor) = (&bench.host, bench.host.operator("a test"));
    let wasm = module_with("", &watch, &body);
    host.deploy(&actor, &bench.app, wasm, true).await.unwrap();
    let app = host.app(&bench.app.name).await.unwrap().unwrap();
    let mut value = vec![9; MIB];
    value[MIB - 8..].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let set = Set {
        collection: Collection::parse("c").unwrap(),
        key: Key::parse("k").unwrap(),
        value: Value::bytes(value, MIB).unwrap(),
        ttl_ms: None,
        expect: None,
    };
    let caller = ServiceCaller::new(&app, None);
    host.kv().set(&caller, set).await.unwrap();
    let (delivery, receipt) = claimed(host).await;
    let delivery = Arc::new(delivery);
    let (made, done) = made(host.deliver(&app, &delivery, receipt)).await;
    done.unwrap();
    assert_eq!(made, 0, "its value is not copied outside wasm");
}
