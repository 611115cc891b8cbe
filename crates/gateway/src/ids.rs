//! Identifiers that the gateway gives out. They name things; none of them is a secret.

use std::sync::atomic::{AtomicU64, Ordering};

/// A new identifier of a kind (`ses`, `fwd`): 60 random bits.
///
/// Should the system's random generator fail, a count with the time takes its place: a session can go on without a
/// pretty name, and nothing relies on the name being hard to guess.
pub fn random_id(kind: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    sandgate_policy::new_id(kind).unwrap_or_else(|_| {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{:x}-{count:x}", time::OffsetDateTime::now_utc().unix_timestamp_nanos())
    })
}
