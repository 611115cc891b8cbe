//! Short queues while somebody types.
//!
//! Everything that is sent on a connection arrives in one line, so an echo comes after all the data that is under way on other
//! channels: up to a window for each of them (2 MiB with OpenSSH) that the client still has to decrypt and to write somewhere.
//! Hence, while keys come in on a terminal, no channel may have more than [`SHORT`] bytes under way. What is under way is
//! what was sent and for which no window has come back.
//!
//! That would be too little for a long link, and for a client that gives window back in larger portions. Either shows as a
//! channel that waits and for which nothing comes back: after [`STALL`] its limit is doubled, so that it soon is what it
//! would have been. The limits begin anew with the next spell of typing.

use std::time::{Duration, Instant};

/// What a channel may have under way at first, in bytes. OpenSSH gives window back once three packets (96 KiB) have come in.
const SHORT: usize = 128 * 1024;
/// A channel that waits for as long as this without getting window back may have more under way. Longer than the way through a
/// local network and a client that is kept busy.
const STALL: Duration = Duration::from_millis(3);
/// A spell of typing ends when no key has come for so long.
const SPELL: Duration = Duration::from_secs(1);

/// Who types, for one connection.
#[derive(Debug, Default)]
pub(crate) struct Typing {
    /// The number of the spell and when its last key came.
    spell: u64,
    last_key: Option<Instant>,
    /// When a stalled channel has to be looked at.
    check: Option<Instant>,
    check_is_new: bool,
}

/// The limit of one channel.
#[derive(Debug, Default)]
pub(crate) struct Leash {
    /// The spell that the limit belongs to.
    spell: u64,
    most: usize,
    /// Since when the channel has been waiting for window because of the limit.
    stalled: Option<Instant>,
}

impl Typing {
    /// A key came.
    pub(crate) fn key(&mut self, now: Instant) {
        if !self.is_on(now) {
            self.spell = self.spell.wrapping_add(1);
        }
        self.last_key = Some(now);
    }

    fn is_on(&self, now: Instant) -> bool {
        self.last_key.is_some_and(|at| now.saturating_duration_since(at) < SPELL)
    }

    /// How much of `window` a channel with `under_way` bytes under way may use.
    pub(crate) fn room(&mut self, leash: &mut Leash, window: usize, under_way: usize, now: Instant) -> usize {
        if !self.is_on(now) {
            return window;
        }
        if leash.spell != self.spell {
            *leash = Leash { spell: self.spell, most: SHORT, stalled: None };
        }
        let room = window.min(leash.most.saturating_sub(under_way));
        if room == 0 && window > 0 {
            let since = *leash.stalled.get_or_insert(now);
            let at = since.checked_add(STALL).unwrap_or(now);
            if self.check.is_none_or(|check| at < check) {
                self.check = Some(at);
                self.check_is_new = true;
            }
        }
        room
    }

    /// When [`Self::due`] wants to be asked.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.check
    }

    /// Whether there is an earlier deadline than was last asked for.
    pub(crate) const fn take_new_deadline(&mut self) -> bool {
        std::mem::replace(&mut self.check_is_new, false)
    }

    /// True when the channels have to be looked at with [`Leash::lengthen`]; the deadline is used up.
    pub(crate) fn due(&mut self, now: Instant) -> bool {
        let due = self.check.is_some_and(|at| at <= now);
        if due {
            self.check = None;
        }
        due
    }

    /// Looks at a channel that may be stalled: gives more room if it has been for long enough, else comes back to it. True
    /// when it is worth trying again.
    pub(crate) fn lengthen(&mut self, leash: &mut Leash, now: Instant) -> bool {
        let Some(at) = leash.stalled.and_then(|since| since.checked_add(STALL)) else { return false };
        if at <= now {
            leash.stalled = None;
            leash.most = leash.most.saturating_mul(2);
            return true;
        }
        if self.check.is_none_or(|check| at < check) {
            self.check = Some(at);
        }
        false
    }
}

impl Leash {
    /// Window came back.
    pub(crate) const fn progress(&mut self) {
        self.stalled = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = 2 * 1024 * 1024;

    #[test]
    fn without_typing_the_window_alone_counts() {
        let (mut typing, mut leash, start) = (Typing::default(), Leash::default(), Instant::now());
        assert_eq!(typing.room(&mut leash, WINDOW, 0, start), WINDOW);
        typing.key(start);
        assert_eq!(typing.room(&mut leash, WINDOW, 1000, start), SHORT - 1000);
        assert_eq!(typing.room(&mut leash, 500, 1000, start), 500);
        assert_eq!(typing.room(&mut leash, WINDOW, 1000, start + SPELL), WINDOW);
        assert_eq!(typing.poll_timeout(), None);
    }

    #[test]
    fn a_channel_that_gets_nothing_back_gets_more_room_until_the_next_spell() {
        let (mut typing, mut leash, start) = (Typing::default(), Leash::default(), Instant::now());
        typing.key(start);
        assert_eq!(typing.room(&mut leash, WINDOW, SHORT, start), 0);
        assert!(typing.take_new_deadline());
        assert_eq!(typing.poll_timeout(), Some(start + STALL));
        let early = start + STALL / 2;
        assert!(!typing.due(early) && !typing.lengthen(&mut leash, early));
        let late = start + STALL;
        assert!(typing.due(late) && typing.lengthen(&mut leash, late));
        assert_eq!(typing.room(&mut leash, WINDOW, SHORT, late), SHORT);
        typing.key(late + SPELL);
        assert_eq!(typing.room(&mut leash, WINDOW, 0, late + SPELL), SHORT);
    }

    #[test]
    fn window_that_comes_back_is_no_stall() {
        let (mut typing, mut leash, start) = (Typing::default(), Leash::default(), Instant::now());
        typing.key(start);
        assert_eq!(typing.room(&mut leash, WINDOW, SHORT, start), 0);
        leash.progress();
        let later = start + STALL / 2;
        assert_eq!(typing.room(&mut leash, WINDOW, SHORT, later), 0);
        assert!(typing.due(start + STALL) && !typing.lengthen(&mut leash, start + STALL));
        assert_eq!(typing.poll_timeout(), Some(later + STALL), "it is looked at again");
    }
}
