//! A bound for loops whose end depends on a store's answers.

/// The maximum number of pages, claims or steps of any loop of the suite. A working store stays
/// far below it.
const ROUNDS_MAX: u32 = 2_000;

/// Counts the rounds of a loop over the answers of a store. A list that makes no progress, or a
/// queue that is never empty, fails the test instead of blocking it.
#[derive(Default)]
pub struct LoopGuard(u32);

impl LoopGuard {
    /// Starts at zero.
    pub fn new() -> LoopGuard {
        LoopGuard::default()
    }

    /// Counts one more round. Panics beyond the bound.
    #[track_caller]
    pub fn next(&mut self) {
        self.0 += 1;
        assert!(self.0 <= ROUNDS_MAX, "no end after {ROUNDS_MAX} rounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "no end after 2000 rounds"]
    fn endless_loop_panics() {
        let mut rounds = LoopGuard::new();
        loop {
            rounds.next();
        }
    }
}
