//! Random numbers that can be had again, and the numbers that the environment sets.

use std::time::Duration;

/// The number that an environment variable holds, where it does.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed that `variable` names, or a new one; printed, so that a failure can be repeated.
    pub fn seeded(variable: &str) -> Self {
        let seed = number(variable)
            .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_nanos() as u64);
        println!("{variable}={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
