//! Who may connect at all: bounds on unauthenticated connections, penalties per source address, and counts per credential.
//!
//! All of it is decided before any cryptography is paid for, or right after authentication. The rules follow OpenSSH's
//! `MaxStartups` and `PerSourcePenalties` in spirit, with one difference: when the unauthenticated connections reach
//! their limit the *oldest* of them is closed, not the newest refused. A flood of half-open connections can then only
//! push out itself: a client that logs in does so in far less time than the flood needs to go round.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bounds on what clients may do, see the `[limits]` table of the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that have not logged in yet; beyond it the oldest is closed.
    pub max_unauthenticated: usize,
    /// Live connections per credential (token or key); the next one is refused in the authentication phase.
    pub max_connections_per_credential: usize,
    /// Whether sources that keep failing are refused for a while.
    pub source_penalties: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_unauthenticated: 512, max_connections_per_credential: 256, source_penalties: true }
    }
}

/// What a source did to be charged, after OpenSSH's `PerSourcePenalties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// Credentials were offered and refused, up to the end of the connection.
    AuthenticationFailed,
    /// The login deadline passed.
    LoginTimeout,
    /// Bytes that are not SSH.
    ProtocolError,
}

impl Offence {
    fn penalty(self) -> Duration {
        Duration::from_secs(match self {
            Self::AuthenticationFailed => 5,
            Self::LoginTimeout | Self::ProtocolError => 10,
        })
    }
}

/// A source is refused once its penalty exceeds this.
const PENALTY_THRESHOLD: Duration = Duration::from_secs(15);
/// No source is ever refused for longer than this.
const PENALTY_MAX: Duration = Duration::from_secs(600);
/// Sources remembered at most; past it the one that is forgiven soonest is forgotten first.
const MAX_SOURCES: usize = 65_536;

/// The penalties of all sources. An IPv6 source counts by its /64 ([`source_group`]), since one host usually owns all of that.
#[derive(Debug, Default)]
pub struct Penalties {
    until: Mutex<HashMap<IpAddr, Instant>>,
}

impl Penalties {
    /// Adds the penalty for `offence` to `source`.
    pub fn charge(&self, source: IpAddr, offence: Offence, now: Instant) {
        let mut until = self.until.lock();
        if until.len() >= MAX_SOURCES {
            until.retain(|_, end| *end > now);
            if until.len() >= MAX_SOURCES
                && let Some(soonest) = until.iter().min_by_key(|(_, end)| **end).map(|(ip, _)| *ip)
            {
                until.remove(&soonest);
            }
        }
        let end = until.entry(source_group(source)).or_insert(now);
        *end = ((*end).max(now) + offence.penalty()).min(now + PENALTY_MAX);
    }

    /// How long `source` is still refused, if it is.
    pub fn refused_for(&self, source: IpAddr, now: Instant) -> Option<Duration> {
        let left = self.until.lock().get(&source_group(source))?.saturating_duration_since(now);
        (left > PENALTY_THRESHOLD).then_some(left)
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 network of 64 bits.
#[must_use]
pub fn source_group(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        },
    }
}

/// The connections that have not logged in, oldest first.
#[derive(Debug, Default)]
pub struct Unauthenticated {
    inner: Mutex<UnauthenticatedInner>,
}

#[derive(Debug, Default)]
struct UnauthenticatedInner {
    next_id: u64,
    /// Keyed by a growing number, so the first entry is the oldest. Bounded by `Limits::max_unauthenticated`.
    evict: std::collections::BTreeMap<u64, Arc<Notify>>,
}

impl Unauthenticated {
    /// Registers a new connection, telling the oldest ones to go while there are more than `limit`.
    pub fn enter(self: &Arc<Self>, limit: usize) -> UnauthenticatedGuard {
        let evicted = Arc::new(Notify::new());
        let mut inner = self.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.evict.insert(id, evicted.clone());
        while inner.evict.len() > limit.max(1) {
            if let Some((_, oldest)) = inner.evict.pop_first() {
                oldest.notify_one();
            }
        }
        drop(inner);
        UnauthenticatedGuard { set: self.clone(), id, evicted }
    }

    /// How many connections have not logged in yet.
    pub fn count(&self) -> usize {
        self.inner.lock().evict.len()
    }
}

/// Held by a connection until it has logged in.
#[derive(Debug)]
pub struct UnauthenticatedGuard {
    set: Arc<Unauthenticated>,
    id: u64,
    evicted: Arc<Notify>,
}

impl UnauthenticatedGuard {
    /// Resolves when this connection has to make room for newer ones.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for UnauthenticatedGuard {
    fn drop(&mut self) {
        self.set.inner.lock().evict.remove(&self.id);
    }
}

/// Live connections counted by credential.
#[derive(Debug, Default)]
pub struct PerCredential {
    counts: Mutex<HashMap<String, usize>>,
}

impl PerCredential {
    /// Counts one more connection of `credential`, or says no when it already has `limit`.
    pub fn enter(self: &Arc<Self>, credential: &str, limit: usize) -> Option<CredentialGuard> {
        let mut counts = self.counts.lock();
        let count = counts.entry(credential.to_owned()).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(CredentialGuard { set: self.clone(), credential: credential.to_owned() })
    }
}

/// Held by an authenticated connection until it ends.
#[derive(Debug)]
pub struct CredentialGuard {
    set: Arc<PerCredential>,
    credential: String,
}

impl Drop for CredentialGuard {
    fn drop(&mut self) {
        let mut counts = self.set.counts.lock();
        if let Some(count) = counts.get_mut(&self.credential) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.credential);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_refused_after_repeated_failures_and_forgiven_in_time() {
        let penalties = Penalties::default();
        let source: IpAddr = "192.0.2.1".parse().expect("an address");
        let now = Instant::now();
        for _ in 0..3 {
            penalties.charge(source, Offence::AuthenticationFailed, now);
        }
        assert_eq!(penalties.refused_for(source, now), None, "15 s is the threshold, not over it");
        penalties.charge(source, Offence::AuthenticationFailed, now);
        assert_eq!(penalties.refused_for(source, now), Some(Duration::from_secs(20)));
        assert_eq!(penalties.refused_for(source, now + Duration::from_secs(6)), None);
    }

    #[test]
    fn ipv6_sources_share_the_fate_of_their_network() {
        let penalties = Penalties::default();
        let now = Instant::now();
        let (a, b): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().expect("an address"), "2001:db8::ffff:2".parse().expect("an address"));
        for _ in 0..2 {
            penalties.charge(a, Offence::LoginTimeout, now);
        }
        assert!(penalties.refused_for(b, now).is_some());
        assert!(penalties.refused_for("2001:db8:0:1::1".parse().expect("an address"), now).is_none());
    }

    #[tokio::test]
    async fn the_oldest_unauthenticated_connection_makes_room() {
        let set = Arc::new(Unauthenticated::default());
        let first = set.enter(2);
        let second = set.enter(2);
        let third = set.enter(2);
        tokio::time::timeout(Duration::from_secs(1), first.evicted()).await.expect("the first is told to go");
        assert_eq!(set.count(), 2);
        drop((second, third));
        assert_eq!(set.count(), 0);
    }

    #[test]
    fn connections_per_credential_are_counted_and_given_back() {
        let set = Arc::new(PerCredential::default());
        let one = set.enter("token:1", 1).expect("room for one");
        assert!(set.enter("token:1", 1).is_none());
        assert!(set.enter("token:2", 1).is_some());
        drop(one);
        assert!(set.enter("token:1", 1).is_some());
        assert_eq!(set.counts.lock().len(), 0, "nothing is remembered of those that left");
    }
}
