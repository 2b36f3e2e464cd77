//! Randomness that can be replayed.

use std::fmt;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Where a test's randomness starts. Taking one prints it, so that a failure's output says how to replay it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// `WALKEEP_SEED` if set, else a fresh one; printed to stderr either way.
    pub fn take() -> Self {
        let seed = match std::env::var("WALKEEP_SEED") {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("WALKEEP_SEED='{text}' is no number")),
            Err(_) => u64::from(rand::random::<u32>()),
        };
        eprintln!("seed: WALKEEP_SEED={seed} replays this test");
        Self(seed)
    }

    /// A seed that never changes, for tests that want variety but no chance.
    pub const fn fixed(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// A generator that starts here.
    pub fn rng(self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
