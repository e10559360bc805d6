//! Keeps the machine busy while the tests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::schedule::cores;

/// A busy loop on each core, until this is dropped.
pub struct Load {
    end: Arc<AtomicBool>,
    loops: Vec<JoinHandle<u64>>,
}

impl Load {
    pub fn start() -> Load {
        let end = Arc::new(AtomicBool::new(false));
        let one = || {
            let end = Arc::clone(&end);
            thread::spawn(move || turn_until(&end))
        };
        let loops = (0..cores()).map(|_| one()).collect();
        Load { end, loops }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for one in self.loops.drain(..) {
            // It cannot panic, and nothing could be done about it.
            let _ = one.join();
        }
    }
}

/// Spins without a pause. Not `spin_loop`, which would yield to the other hardware thread.
fn turn_until(end: &AtomicBool) -> u64 {
    let mut number = 1_u64;
    while !end.load(Ordering::Relaxed) {
        for _ in 0..10_000 {
            number = std::hint::black_box(
                number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_stops_when_dropped() {
        let load = Load::start();
        assert_eq!(load.loops.len(), cores());
        let end = Arc::clone(&load.end);
        drop(load);
        assert!(end.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(&end), 1);
    }
}
