//! What works in 64 bits with an operating system, and not in WebAssembly.

use kvasm_guest::{Error, Json, kv};

#[kvasm_guest::function]
fn total(Json(count): Json<usize>) -> String {
    let total = count * 1_000_000;
    total.to_string()
}

#[kvasm_guest::function]
fn since_1970() -> String {
    let elapsed = std::time::UNIX_EPOCH.elapsed().unwrap();
    elapsed.as_secs().to_string()
}

#[kvasm_guest::function]
fn thread() -> String {
    let thread = std::thread::Builder::new().spawn(|| "joined".to_owned());
    thread.unwrap().join().unwrap()
}

#[kvasm_guest::function]
fn crash() -> String {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    "fine".to_owned()
}

#[kvasm_guest::function]
fn spin() -> String {
    let mut n = 0_u64;
    while cfg!(target_arch = "wasm32") {
        n = std::hint::black_box(n.wrapping_add(1));
    }
    n.to_string()
}

#[kvasm_guest::function]
fn count() -> Result<String, Error> {
    Ok(kv::collection("counts").increment("all", 1)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing::Harness;

    #[kvasm_guest::test]
    fn size_overflows(h: &mut Harness) {
        assert_eq!(h.call(total, "5000").unwrap(), "5000000000");
    }

    #[kvasm_guest::test]
    fn there_is_a_clock(h: &mut Harness) {
        h.call(since_1970, ()).unwrap();
    }

    #[kvasm_guest::test]
    fn there_are_no_threads(h: &mut Harness) {
        h.call(thread, ()).unwrap();
    }

    #[kvasm_guest::test]
    fn trap_names_its_line(h: &mut Harness) {
        h.call(crash, ()).unwrap();
    }

    #[kvasm_guest::test]
    fn endless_loop_ends(h: &mut Harness) {
        h.call(spin, ()).unwrap();
    }

    #[kvasm_guest::test]
    fn neighbour_passes(h: &mut Harness) {
        for n in 1..20 {
            assert_eq!(h.call(count, ()).unwrap(), n.to_string().as_str());
        }
    }
}
