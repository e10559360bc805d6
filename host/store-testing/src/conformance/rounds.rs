//! An end for loops that a store ends by its answers.

/// The most pages, claims or steps that any loop of the suite takes. None of a store
/// that works comes near it.
const ROUNDS_MAX: u32 = 2_000;

/// Counts the rounds of a loop over the answers of a store. A list that does not move
/// on, or a queue that is never empty, fails the test and does not keep it for ever.
#[derive(Default)]
pub struct Rounds(u32);

impl Rounds {
    /// None yet.
    pub fn new() -> Rounds {
        Rounds::default()
    }

    /// Begins one more. Panics beyond the bound.
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
    fn a_loop_without_an_end_panics() {
        let mut rounds = Rounds::new();
        loop {
            rounds.next();
        }
    }
}
