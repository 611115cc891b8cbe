//! Bounds on how many may do the same at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use parking_lot::Mutex;
use sandgate_gateway::limits::{Unauthenticated, UnauthenticatedGuard, source_group};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// Places for so many, and the words for one more.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    refusal: &'static str,
}

/// Given back when it is dropped.
#[must_use]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Places that others give away too.
    pub(crate) fn shared(free: Arc<Semaphore>, refusal: &'static str) -> Places {
        Places { free, refusal }
    }

    /// A place, or the answer for who gets none.
    pub(crate) fn take(&self) -> Result<Place, Problem> {
        match self.free.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, self.refusal)),
        }
    }
}

/// Who holds how many places, by where they come from.
#[derive(Default)]
pub(crate) struct Sources {
    /// Bounded by the places, since each source in it holds one.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Sources {
    /// Counts one more, or says no where `peer` has `most` already. This machine itself has no such bound: a proxy on it brings everybody's.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<Share> {
        let source = (!peer.to_canonical().is_loopback()).then(|| source_group(peer));
        if let Some(source) = source {
            let mut counts = self.counts.lock();
            let count = counts.entry(source).or_insert(0);
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        Some(Share { sources: self.clone(), source })
    }
}

/// Held for as long as the place is.
#[must_use]
pub(crate) struct Share {
    sources: Arc<Sources>,
    /// `None` for this machine, which is not counted.
    source: Option<IpAddr>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut counts = self.sources.counts.lock();
        if let Some(count) = counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&source);
            }
        }
    }
}

/// Places for those who have not said who they are. As at the SSH door the oldest makes room where all are taken: who knows what to say does so at
/// once, so a flood pushes out itself. Besides, no source has more than its share.
#[derive(Clone)]
pub(crate) struct Newcomers {
    waiting: Arc<Unauthenticated>,
    sources: Arc<Sources>,
    most: usize,
    most_by_source: usize,
}

impl Newcomers {
    /// Places for `most`, and for `most_by_source` from one source.
    pub(crate) fn new(most: usize, most_by_source: usize) -> Newcomers {
        Newcomers { waiting: Arc::default(), sources: Arc::default(), most, most_by_source }
    }

    /// A place; `None` where the share of `peer` is used up. Whoever came by the control socket has no address and no bound of its own.
    pub(crate) fn enter(&self, peer: Option<IpAddr>) -> Option<Newcomer> {
        let share = match peer {
            Some(peer) => Some(self.sources.enter(peer, self.most_by_source)?),
            None => None,
        };
        Some(Newcomer { place: self.waiting.enter(self.most), _share: share })
    }
}

/// Held until the newcomer has said who it is.
#[must_use]
pub(crate) struct Newcomer {
    place: UnauthenticatedGuard,
    _share: Option<Share>,
}

impl Newcomer {
    /// Resolves when it has to make room.
    pub(crate) async fn evicted(&self) {
        self.place.evicted().await;
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    /// Status and words of a refusal.
    async fn refused(places: &Places) -> (u16, String) {
        let Err(problem) = places.take() else { panic!("one more was let in") };
        let answer = problem.into_response();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.expect("a body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        (status, body["detail"].as_str().expect("a detail").to_owned())
    }

    #[tokio::test]
    async fn one_more_is_refused_until_a_place_is_given_back() {
        let places = Places::shared(Arc::new(Semaphore::new(2)), "too many");
        let first = places.take().expect("a place");
        let _second = places.clone().take().expect("another, of a copy");
        assert_eq!(refused(&places).await, (503, "too many".to_owned()));
        drop(first);
        let _third = places.take().expect("the place that was given back");
        assert_eq!(refused(&places).await, (503, "too many".to_owned()));
    }

    #[tokio::test]
    async fn a_task_that_is_ended_gives_its_place_back() {
        let free = Arc::new(Semaphore::new(1));
        let places = Places::shared(free.clone(), "too many");
        let place = places.take().expect("a place");
        let task = tokio::spawn(async move {
            let _place = place;
            std::future::pending::<()>().await;
        });
        assert_eq!(refused(&places).await.0, 503);
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(free.available_permits(), 1);
        assert!(places.take().is_ok());
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_source_cannot_hold_all_places() {
        let sources = Arc::<Sources>::default();
        let mut held: Vec<Share> =
            (0..4).map(|_| sources.enter(address("192.0.2.1"), 4).expect("a place")).collect();
        assert!(sources.enter(address("192.0.2.1"), 4).is_none());
        assert!(sources.enter(address("::ffff:192.0.2.1"), 4).is_none(), "the same by another listener");
        assert!(sources.enter(address("192.0.2.2"), 4).is_some(), "others are not hurt");
        held.pop();
        assert!(sources.enter(address("192.0.2.1"), 4).is_some(), "a place that was given back");
        held.clear();
        assert!(sources.counts.lock().is_empty(), "nothing is remembered of those that left");
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let sources = Arc::<Sources>::default();
        let held: Vec<Share> =
            (0..4).filter_map(|host| sources.enter(address(&format!("2001:db8::{host:x}")), 4)).collect();
        assert_eq!(held.len(), 4);
        assert!(sources.enter(address("2001:db8::ffff:1"), 4).is_none());
        assert!(sources.enter(address("2001:db8:0:1::1"), 4).is_some());
    }

    #[test]
    fn this_machine_has_no_such_bound() {
        let sources = Arc::<Sources>::default();
        let here = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.0.0.9"];
        let held: Vec<Share> =
            here.iter().cycle().take(40).filter_map(|ip| sources.enter(address(ip), 4)).collect();
        assert_eq!(held.len(), 40);
        assert!(sources.counts.lock().is_empty());
    }

    #[tokio::test]
    async fn a_flood_of_newcomers_keeps_nobody_out() {
        let newcomers = Newcomers::new(3, 2);
        let flood = Some(address("192.0.2.1"));
        let first = newcomers.enter(flood).expect("a place");
        let second = newcomers.enter(flood).expect("a place");
        assert!(newcomers.enter(flood).is_none(), "it has its share");
        // By way of a proxy on this machine nobody can tell who is who: there the oldest goes.
        let held: Vec<Newcomer> =
            (0..2).map(|_| newcomers.enter(Some(address("127.0.0.1"))).expect("a place")).collect();
        let soon = std::time::Duration::from_secs(1);
        tokio::time::timeout(soon, first.evicted()).await.expect("the first is told to go");
        let short = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(short, second.evicted()).await.is_err(), "the second may stay");
        drop(first);
        let _again = newcomers.enter(flood).expect("the share that was given back");
        tokio::time::timeout(soon, second.evicted()).await.expect("the second is the oldest now");
        assert!(newcomers.enter(None).is_some(), "the control socket");
        drop(held);
    }
}
