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
/// Most tickets that wait for their use; one costs less than a kilobyte.
const MAX_TICKETS: usize = 4096;
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

/// What a ticket is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Identifier of the terminal.
    pub terminal: String,
    /// What its holder may do there.
    pub mode: Mode,
    /// Who fetched it.
    pub principal: Principal,
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// No secret could be made.
    #[error("{0}")]
    Random(#[from] NoRandomness),
    /// All places are taken.
    #[error("too many tickets wait for their use; try again in half a minute")]
    TooMany,
}

/// The tickets that have not been used.
#[derive(Default)]
pub(super) struct Tickets {
    /// By the hash. Bounded by [`MAX_TICKETS`].
    waiting: Mutex<HashMap<[u8; digest::SHA256_OUTPUT_LEN], (Instant, Grant)>>,
}

impl Tickets {
    /// A new ticket, good from `now` for [`LIFE`].
    pub(super) fn issue(&self, grant: Grant, now: Instant) -> Result<Ticket, TicketError> {
        let mut random = [0u8; RANDOM];
        rand::fill(&mut random).map_err(|_| NoRandomness)?;
        let ticket = Ticket(random.iter().map(|byte| format!("{byte:02x}")).collect());
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (until, _)| *until > now);
        if waiting.len() >= MAX_TICKETS {
            return Err(TicketError::TooMany);
        }
        waiting.insert(hash(ticket.reveal()), (now + LIFE, grant));
        Ok(ticket)
    }

    /// Uses a ticket up. `None` for one that is unknown, used or too old, which look the same.
    pub(super) fn take(&self, presented: &str, now: Instant) -> Option<Grant> {
        let (until, grant) = self.waiting.lock().remove(&hash(presented))?;
        (until > now).then_some(grant)
    }

    /// Makes all tickets of a terminal void.
    pub(super) fn forget(&self, terminal: &str) {
        self.waiting.lock().retain(|_, (_, grant)| grant.terminal != terminal);
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("waiting", &self.waiting.lock().len()).finish()
    }
}

fn hash(text: &str) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::testing::principal;

    fn grant(terminal: &str) -> Grant {
        Grant { terminal: terminal.to_owned(), mode: Mode::Write, principal: principal() }
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
    fn they_are_bounded_and_old_ones_make_room() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let first = tickets.issue(grant("trm-1"), now).expect("a ticket");
        for _ in 1..MAX_TICKETS {
            tickets.issue(grant("trm-2"), now).expect("a ticket");
        }
        assert!(matches!(tickets.issue(grant("trm-2"), now), Err(TicketError::TooMany)));
        tickets.forget("trm-2");
        tickets.issue(grant("trm-2"), now).expect("room");
        assert!(tickets.take(first.reveal(), now).is_some());
        for _ in 0..MAX_TICKETS - 1 {
            tickets.issue(grant("trm-2"), now).expect("a ticket");
        }
        tickets.issue(grant("trm-2"), now + LIFE).expect("the old ones are gone");
        assert_eq!(tickets.waiting.lock().len(), 1);
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
