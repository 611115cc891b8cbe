//! Finding out that the other end of a link is gone or hung although nothing says so. No clock: the owner calls [`Watch::tick`] once
//! in an interval and does what it says.
//!
//! Every interval has its own question (a Ping), and the interval is its deadline. Any byte that arrives counts as the answer, so a peer that is busy
//! sending is never given up.

use std::time::Duration;

/// First probe of an idle TCP connection, and the pause between probes, wherever one of ours is opened or taken: by the gateway, or in the guest for
/// a forward. The keepalives of the protocols above find dead peers sooner; this is for connections that have not logged in, for forwarded ones, and
/// for middleboxes that forget.
pub const TCP_IDLE: Duration = Duration::from_secs(60);

/// How often to ask, and how many missed answers in a row mean that the peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Between two questions, and the time that each has to be answered.
    pub interval: Duration,
    /// Unanswered questions in a row after which the peer is given up.
    pub max_missed: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), max_missed: 3 }
    }
}

impl Keepalive {
    /// Within how many milliseconds the peer hears of us for certain as long as we are there: one question more than it takes us to
    /// give up, so that neither side is quicker than the other because of a timer that comes late.
    pub fn patience(&self) -> u32 {
        let intervals = self.max_missed.saturating_add(1);
        u32::try_from(self.interval.saturating_mul(intervals).as_millis()).unwrap_or(u32::MAX)
    }
}

/// What to do at the end of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// Ask now.
    Ask,
    /// The peer is gone. Said once.
    Lost,
    /// Nothing: the peer was given up and has not been heard since.
    Silent,
}

/// Counts missed answers.
#[derive(Debug)]
pub struct Watch {
    max_missed: u32,
    /// What had been heard at the last tick; `None` before the first.
    heard: Option<u64>,
    missed: u32,
}

impl Watch {
    /// A watch that has asked nothing yet.
    pub fn new(keepalive: Keepalive) -> Self {
        Self { max_missed: keepalive.max_missed.max(1), heard: None, missed: 0 }
    }

    /// An interval is over. `heard` changes with every byte that arrives.
    pub fn tick(&mut self, heard: u64) -> Tick {
        if self.heard.replace(heard) != Some(heard) {
            self.missed = 0;
            return Tick::Ask;
        }
        self.missed = self.missed.saturating_add(1);
        match self.missed.cmp(&self.max_missed) {
            std::cmp::Ordering::Less => Tick::Ask,
            std::cmp::Ordering::Equal => Tick::Lost,
            std::cmp::Ordering::Greater => Tick::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(max_missed: u32) -> Watch {
        Watch::new(Keepalive { interval: Duration::from_secs(1), max_missed })
    }

    #[test]
    fn a_silent_peer_is_given_up_after_so_many_questions_and_only_once() {
        let mut watch = watch(3);
        let ticks: Vec<Tick> = (0..6).map(|_| watch.tick(100)).collect();
        assert_eq!(ticks, [Tick::Ask, Tick::Ask, Tick::Ask, Tick::Lost, Tick::Silent, Tick::Silent]);
        assert_eq!(watch.tick(101), Tick::Ask, "it is back");
    }

    #[test]
    fn a_byte_in_time_is_enough() {
        let mut watch = watch(3);
        for heard in 0..20 {
            for _ in 0..3 {
                assert_eq!(watch.tick(heard), Tick::Ask);
            }
        }
    }

    #[test]
    fn the_promise_is_longer_than_our_own_patience() {
        assert_eq!(Keepalive::default().patience(), 120_000);
        assert_eq!(Keepalive { interval: Duration::MAX, max_missed: 3 }.patience(), u32::MAX);
    }
}
