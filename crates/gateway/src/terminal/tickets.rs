//! Tickets: a secret for one use within half a minute, which attaches a client to a terminal.
//!
//! A WebSocket of a browser cannot carry a header of ours, and what stands in an address ends in logs and histories. So whoever may use a terminal
//! fetches a ticket with an ordinary request and sends it as the first message. Only its SHA-256 is kept; it has 128 random bits, so a plain hash is
//! as good as a slow one.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rand};
use parking_lot::Mutex;
use sandgate_policy::{NoRandomness, Principal};

use super::Mode;

/// How long a ticket can be used.
pub const LIFE: Duration = Duration::from_secs(30);
/// Most tickets that wait for their use; one costs less than a kilobyte. Those for terminals and those for sessions are kept apart. Twice as many as
/// there are pairs of a terminal and a mode, so that where all places are taken somebody has more than one.
const MAX_TICKETS: usize = 2 * 2 * super::MAX_TERMINALS;
/// Most of them for one target and one mode. Far more than pages that come back at once need.
const MAX_ALIKE: usize = 32;
/// Random bytes of one.
const RANDOM: usize = 16;

/// The secret text. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(String);

impl Ticket {
    /// The secret text, for the one answer that shows it; never for a log.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// What a ticket leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A terminal, by its identifier.
    Terminal(String),
    /// The terminal of a session that no page writes to, by the session's identifier. It can only be watched.
    Session(String),
}

/// What a ticket is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Where it leads.
    pub target: Target,
    /// What its holder may do there.
    pub mode: Mode,
    /// Who fetched it.
    pub principal: Principal,
}

type Hash = [u8; digest::SHA256_OUTPUT_LEN];

/// The tickets that have not been used.
#[derive(Default)]
pub(super) struct Tickets {
    /// By the hash. Bounded by [`MAX_TICKETS`] and [`MAX_ALIKE`].
    waiting: Mutex<HashMap<Hash, (Instant, Grant)>>,
}

impl Tickets {
    /// A new ticket, good from `now` for [`LIFE`]. Where there are too many, an old one goes, and it is one of those who fetch the most: who may
    /// only watch must not be able to keep anybody else out.
    pub(super) fn issue(&self, grant: Grant, now: Instant) -> Result<Ticket, NoRandomness> {
        let mut random = [0u8; RANDOM];
        rand::fill(&mut random).map_err(|_| NoRandomness)?;
        let ticket = Ticket(random.iter().map(|byte| format!("{byte:02x}")).collect());
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (until, _)| *until > now);
        let alike = waiting.values().filter(|(_, other)| group(other) == group(&grant)).count();
        if alike >= MAX_ALIKE {
            drop_oldest(&mut waiting, &grant);
        } else if waiting.len() >= MAX_TICKETS
            && let Some(most) = of_the_largest_group(&waiting)
        {
            drop_oldest(&mut waiting, &most);
        }
        waiting.insert(hash(ticket.reveal()), (now + LIFE, grant));
        Ok(ticket)
    }

    /// Uses a ticket up. `None` for one that is unknown, used or too old, which look the same.
    pub(super) fn take(&self, presented: &str, now: Instant) -> Option<Grant> {
        let (until, grant) = self.waiting.lock().remove(&hash(presented))?;
        (until > now).then_some(grant)
    }

    /// Makes all tickets of a target void.
    pub(super) fn forget(&self, target: &Target) {
        self.waiting.lock().retain(|_, (_, grant)| grant.target != *target);
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("waiting", &self.waiting.lock().len()).finish()
    }
}

/// Tickets of one group make room for each other.
fn group(grant: &Grant) -> (&Target, Mode) {
    (&grant.target, grant.mode)
}

/// One of those that have the most alike.
fn of_the_largest_group(waiting: &HashMap<Hash, (Instant, Grant)>) -> Option<Grant> {
    let mut counts: HashMap<(&Target, Mode), (usize, &Grant)> = HashMap::new();
    for (_, grant) in waiting.values() {
        counts.entry(group(grant)).or_insert((0, grant)).0 += 1;
    }
    counts.into_values().max_by_key(|(count, _)| *count).map(|(_, grant)| grant.clone())
}

/// Makes the oldest ticket of the same group as `grant` void.
fn drop_oldest(waiting: &mut HashMap<Hash, (Instant, Grant)>, grant: &Grant) {
    let oldest = waiting
        .iter()
        .filter(|(_, (_, other))| group(other) == group(grant))
        .min_by_key(|(_, (until, _))| *until)
        .map(|(hash, _)| *hash);
    if let Some(oldest) = oldest {
        waiting.remove(&oldest);
    }
}

fn hash(text: &str) -> Hash {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::testing::principal;

    fn grant(terminal: &str) -> Grant {
        let target = Target::Terminal(terminal.to_owned());
        Grant { target, mode: Mode::Write, principal: principal() }
    }

    #[test]
    fn a_ticket_is_good_once_and_for_half_a_minute() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let ticket = tickets.issue(grant("trm-1"), now).expect("a ticket");
        assert_eq!(ticket.reveal().len(), 32);
        assert!(tickets.take("", now).is_none() && tickets.take(&"0".repeat(32), now).is_none());
        let last = now + LIFE - Duration::from_millis(1);
        assert_eq!(tickets.take(ticket.reveal(), last), Some(grant("trm-1")));
        assert_eq!(tickets.take(ticket.reveal(), last), None, "used");
        let old = tickets.issue(grant("trm-1"), now).expect("a ticket");
        assert_eq!(tickets.take(old.reveal(), now + LIFE), None, "too old");
    }

    #[test]
    fn the_oldest_of_its_kind_makes_room_and_no_other() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let at = |place: usize| now + Duration::from_millis(place as u64);
        let issue = |grant: Grant, place| tickets.issue(grant, at(place)).expect("a ticket");
        let watch = || Grant { mode: Mode::Watch, ..grant("trm-1") };
        let writer = issue(grant("trm-1"), 0);
        let elsewhere = issue(Grant { mode: Mode::Watch, ..grant("trm-2") }, 0);
        // A watcher who fetches one after the other.
        let watchers: Vec<Ticket> = (0..MAX_ALIKE + 3).map(|place| issue(watch(), place)).collect();
        assert_eq!(tickets.waiting.lock().len(), MAX_ALIKE + 2);
        let good = |ticket: &Ticket| tickets.take(ticket.reveal(), at(100)).is_some();
        assert!(good(&writer) && good(&elsewhere), "others lose nothing");
        let left: Vec<bool> = watchers.iter().map(good).collect();
        assert_eq!(left.iter().take_while(|good| !**good).count(), 3, "the oldest go");
        assert_eq!(left.iter().filter(|good| **good).count(), MAX_ALIKE);
        issue(watch(), 200);
        tickets.issue(watch(), now + LIFE + Duration::from_secs(1)).expect("a ticket");
        assert_eq!(tickets.waiting.lock().len(), 1, "old ones make room by themselves");
    }

    #[test]
    fn many_terminals_do_not_keep_others_out() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let issue = |grant: Grant| tickets.issue(grant, now).expect("a ticket");
        let first = issue(grant("trm-mine"));
        let mut greedy = 0;
        while tickets.waiting.lock().len() < MAX_TICKETS {
            issue(grant(&format!("trm-{}", greedy / MAX_ALIKE)));
            greedy += 1;
        }
        let last = issue(grant("trm-late"));
        assert_eq!(tickets.waiting.lock().len(), MAX_TICKETS, "they are bounded");
        assert!(tickets.take(first.reveal(), now).is_some() && tickets.take(last.reveal(), now).is_some());
        tickets.forget(&grant("trm-0").target);
        let left = tickets.waiting.lock().len();
        assert!((MAX_TICKETS - 2 - MAX_ALIKE..MAX_TICKETS - 2).contains(&left), "{left}");
    }

    #[test]
    fn secrets_do_not_show() {
        let tickets = Tickets::default();
        let ticket = tickets.issue(grant("trm-1"), Instant::now()).expect("a ticket");
        assert!(!format!("{ticket:?} {tickets:?}").contains(ticket.reveal()));
        let kept = format!("{:?}", tickets.waiting.lock());
        assert!(!kept.contains(ticket.reveal()));
        let other = tickets.issue(grant("trm-1"), Instant::now()).expect("a ticket");
        assert_ne!(ticket, other);
    }
}
