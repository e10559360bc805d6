//! Typed collections of the SDK, in a plugin on a host.

use kvasm::Call;
use kvasm_tests::guests::{TestHost, wasm};

#[tokio::test]
async fn concurrent_typed_updates_lose_nothing() {
    const CALLERS: u64 = 16;
    const UPDATES: u64 = 20;
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("sdk")).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (host, plugin) = (bench.host.clone(), plugin.clone());
            tokio::spawn(async move {
                for _ in 0..UPDATES {
                    let update = Call::function("typed_update");
                    host.call(&plugin, update).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let total = bench.host.call(&plugin, Call::function("typed_total"));
    let total = total.await.unwrap().output;
    assert_eq!(total, (CALLERS * UPDATES).to_string().as_bytes());
}

#[tokio::test]
async fn typed_iteration_of_10_000_entries_fits_into_small_memory() {
    // The rows are 2 MB of values; a page of them is 200 kB.
    let bench = TestHost::with_limits(|limits| limits.memory_bytes = 4 * 1024 * 1024).await;
    let plugin = bench.load(wasm("sdk")).await;
    for from in (-5_000..5_000).step_by(500) {
        let input = format!("[{from},{}]", from + 499);
        let fill = Call::function("typed_fill").input(input.into_bytes());
        bench.host.call(&plugin, fill).await.unwrap();
    }
    let walk = bench.host.call(&plugin, Call::function("typed_walk"));
    let walk = walk.await.unwrap().output;
    assert_eq!(walk, b"[10000,-5000,true]");
}
