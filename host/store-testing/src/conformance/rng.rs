//! Reproducible random choices.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed of this run: from the environment, or a new one for each call. It is printed, and
/// the test harness shows it if the test fails.
pub fn seed() -> u64 {
    let seed = given_or_new();
    println!("repeat this test with {}={seed}", super::SEED_VARIABLE);
    seed
}

fn given_or_new() -> u64 {
    if let Ok(given) = std::env::var(super::SEED_VARIABLE) {
        return given.parse().expect("the seed is a number");
    }
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let address = &raw const time as u64;
    Rng::new(time.as_nanos() as u64 ^ address).next()
}

/// A SplitMix64 generator: small, and good enough to choose test cases.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// Another generator, whose choices do not depend on when it is used.
    pub fn split(&mut self) -> Rng {
        Rng(self.next())
    }

    /// Any number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True with probability `times` / `of`.
    pub fn chance(&mut self, times: usize, of: usize) -> bool {
        self.below(of) < times
    }

    /// A random element.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Fewer than `end` random bytes.
    pub fn short_bytes(&mut self, end: usize) -> Vec<u8> {
        let len = self.below(end);
        self.bytes(len)
    }

    /// Random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
