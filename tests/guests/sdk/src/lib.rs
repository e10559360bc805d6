//! A plugin written with the SDK, for tests and benchmarks.

mod typed;

use kvasm_guest::http::{Request, Response};
use kvasm_guest::{Error, Json, config, kv, log};
use std::hint::black_box;

/// The number of entries that `set` writes.
const NUMBERS: u64 = 20_000;

/// Does nothing.
#[kvasm_guest::function]
fn noop() {}

/// Creates an entry with a number and returns it.
#[kvasm_guest::function]
fn get() -> Result<Json<u64>, Error> {
    let key = format!("{:08}", 7);
    Ok(Json(kv::collection("numbers").get(&key)?.unwrap_or(0)))
}

/// Sets a number under a new key.
#[kvasm_guest::function]
fn set() -> Result<(), Error> {
    let number = random(NUMBERS)?;
    kv::collection("numbers").set(&format!("{number:08}"), &number)?;
    Ok(())
}

/// Moves one unit between two of `count` accounts.
#[kvasm_guest::function(transaction)]
fn transfer(Json(count): Json<u64>) -> Result<(), Error> {
    let accounts = kv::collection("accounts");
    let from = random(count)?;
    let to = (from + 1 + random(count - 1)?) % count;
    for (account, by) in [(from, -1), (to, 1)] {
        let key = format!("{account:08}");
        let sum = accounts.get::<i64>(&key)?.unwrap_or(0);
        accounts.set(&key, &(sum + by))?;
    }
    Ok(())
}

/// Adds one to two entries, in a part of the call.
#[kvasm_guest::function]
fn count_in_part() -> Result<(), Error> {
    let parts = kv::collection("parts");
    kv::transaction(|| {
        for key in ["one", "other"] {
            let sum = parts.get::<u64>(key)?.unwrap_or(0);
            parts.set(key, &(sum + 1))?;
        }
        Ok(())
    })
}

/// Adds a number to two entries.
#[kvasm_guest::function(transaction)]
fn count_both(Json(by): Json<u64>) -> Result<(), Error> {
    let parts = kv::collection("parts");
    for key in ["one", "other"] {
        let sum = parts.get::<u64>(key)?.unwrap_or(0);
        parts.set(key, &(sum + by))?;
    }
    Ok(())
}

/// Calls a transactional function, but is none.
#[kvasm_guest::function]
fn count_by_call() -> Result<(), Error> {
    count_both(Json(1))
}

/// Adds one to two entries, one after the other.
#[kvasm_guest::function]
fn count_by_update() -> Result<(), Error> {
    let parts = kv::collection("parts");
    for key in ["one", "other"] {
        parts.update(key, |sum: &mut Option<u64>| *sum.get_or_insert(0) += 1)?;
    }
    Ok(())
}

/// A currency and a number of retries.
type Settings = (Option<String>, Option<u32>);

/// Reads two configuration values.
#[kvasm_guest::function]
fn settings() -> Result<Json<Settings>, Error> {
    Ok(Json((config::get("currency")?, config::get("retries")?)))
}

/// Computes for about 50 ms.
#[kvasm_guest::function]
fn burn() {
    let mut x = black_box(7_u64);
    for _ in 0..20_000_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x);
}

/// Logs 50 lines.
#[kvasm_guest::function]
fn chatter() {
    for step in 0..50 {
        log::info!("step {step} of a call that logs each of its steps, in a line of usual length");
    }
}

/// Reads `reads` random entries out of `entries`.
#[kvasm_guest::function]
fn look_up(Json((reads, entries)): Json<(u64, u64)>) -> Result<(), String> {
    let large = kv::collection("large");
    for _ in 0..reads {
        let key = format!("{:08}", random(entries).map_err(|e| e.to_string())?);
        match large.get::<String>(&key) {
            Ok(Some(text)) => black_box(text),
            Ok(None) => return Err(format!("{key} does not exist")),
            Err(error) => return Err(error.to_string()),
        };
    }
    Ok(())
}

/// Sets `sets` random entries out of `entries`, each durably.
#[kvasm_guest::function]
fn overwrite(Json((sets, entries)): Json<(u64, u64)>) -> Result<(), Error> {
    let large = kv::collection("large");
    for _ in 0..sets {
        let key = format!("{:08}", random(entries)?);
        large.set(&key, &"y".repeat(98))?;
    }
    Ok(())
}

/// Allocates `count` blocks of `bytes` bytes, keeps all of them to the end, and returns the
/// pages of memory before and after.
#[kvasm_guest::function]
fn allocate(Json((count, bytes)): Json<(usize, usize)>) -> Result<Json<(usize, usize)>, String> {
    let before = pages();
    let mut kept = Vec::with_capacity(count);
    for n in 0..count {
        let mut block = Vec::new();
        block
            .try_reserve_exact(bytes)
            .map_err(|_| format!("no memory for block {n}"))?;
        block.resize(bytes, n as u8);
        kept.push(block);
    }
    for (n, block) in black_box(&kept).iter().enumerate() {
        if block.iter().any(|byte| *byte != n as u8) {
            return Err(format!("block {n} was overwritten"));
        }
    }
    Ok(Json((before, pages())))
}

/// Like `allocate`, but drops each block before it allocates the next.
#[kvasm_guest::function]
fn churn(Json((count, bytes)): Json<(usize, usize)>) -> Json<(usize, usize)> {
    let before = pages();
    for n in 0..count {
        black_box(vec![n as u8; bytes]);
    }
    Json((before, pages()))
}

/// Returns the path segments and the parameter `x`, or 400.
#[kvasm_guest::http]
fn handle(request: Request) -> Result<Response, Error> {
    let read = || Ok((request.path_segments()?, request.query_param("x")?));
    match read() {
        Ok(read) => Response::json(&read),
        Err(Error::BadRequest(why)) => Ok(Response::text(why.message()).status(400)),
        Err(error) => Err(error),
    }
}

fn random(below: u64) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    kvasm_guest::random_fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes) % below)
}

#[cfg(target_arch = "wasm32")]
fn pages() -> usize {
    core::arch::wasm32::memory_size::<0>()
}

#[cfg(not(target_arch = "wasm32"))]
fn pages() -> usize {
    0
}

/// Uses the standard library's output and clock, which `wasm32-unknown-unknown` lacks.
#[cfg(target_os = "wasi")]
#[kvasm_guest::function]
fn std_prints_and_reads_the_clock() -> Json<bool> {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};
    println!("printed {}", 1);
    eprintln!("to the error output");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let host_now = u64::try_from(kvasm_guest::now_ms()).map(Duration::from_millis);
    let (Ok(now), Ok(host_now)) = (now, host_now) else {
        return Json(false);
    };
    Json(now.abs_diff(host_now) < Duration::from_secs(60))
}

/// Prints on every target.
#[kvasm_guest::function]
fn prints() {
    use kvasm_guest::print::{dbg, eprintln, print, println};
    println!("printed {}", 1);
    print!("two\nlines");
    println!();
    eprintln!("to the error output");
    let (three, text) = dbg!(1 + 2, "text");
    println!("{three} {text}");
    print!("without a line break");
}

/// Functions with the names of symbols of the C library, which the standard library calls.
mod named_as_in_c {
    use kvasm_guest::Json;
    use kvasm_guest::print::println;

    #[kvasm_guest::function]
    fn write(Json(number): Json<u32>) -> Json<u32> {
        println!("write {number}");
        Json(number + 1)
    }

    #[kvasm_guest::function]
    fn remove() -> String {
        "remove".to_owned()
    }

    #[kvasm_guest::function]
    fn memcpy() -> String {
        "memcpy".to_owned()
    }

    #[kvasm_guest::function]
    fn main() -> String {
        "main".to_owned()
    }
}
