//! What epoll watches, and what its events are about.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::connection;
use crate::session::Port;

/// What an event is about. Packed into the 64 bits that epoll carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Token {
    Listener,
    Signals,
    LinkIn(u64),
    LinkOut(u64),
    Session(u64, Port),
    Connection(u64, connection::Port),
    Lookup(u64),
    Dialing(u64),
    /// The first or the second socket of a listener in the guest.
    Listening(u64, bool),
}

impl Token {
    pub fn pack(self) -> u64 {
        let (kind, id) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::LinkIn(id) => (2, id),
            Token::LinkOut(id) => (3, id),
            Token::Session(id, Port::Stdin) => (4, id),
            Token::Session(id, Port::Main) => (5, id),
            Token::Session(id, Port::Stderr) => (6, id),
            Token::Connection(id, connection::Port::Socket) => (7, id),
            Token::Connection(id, connection::Port::FromHost) => (8, id),
            Token::Connection(id, connection::Port::ToHost) => (9, id),
            Token::Lookup(id) => (10, id),
            Token::Dialing(id) => (11, id),
            Token::Listening(id, false) => (12, id),
            Token::Listening(id, true) => (13, id),
        };
        id << 4 | kind
    }

    pub fn unpack(raw: u64) -> Self {
        let id = raw >> 4;
        match raw & 15 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::LinkIn(id),
            3 => Token::LinkOut(id),
            4 => Token::Session(id, Port::Stdin),
            5 => Token::Session(id, Port::Main),
            6 => Token::Session(id, Port::Stderr),
            7 => Token::Connection(id, connection::Port::Socket),
            8 => Token::Connection(id, connection::Port::FromHost),
            9 => Token::Connection(id, connection::Port::ToHost),
            10 => Token::Lookup(id),
            11 => Token::Dialing(id),
            12 => Token::Listening(id, false),
            _ => Token::Listening(id, true),
        }
    }
}

/// Keeps track of what epoll watches.
pub(super) struct Watch {
    pub epoll: OwnedFd,
    active: HashMap<Token, EventFlags>,
}

impl Watch {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, active: HashMap::new() })
    }

    /// Makes epoll watch `fd` for `flags`; empty flags end the watch, so that not even a hangup is reported.
    pub fn set(&mut self, token: Token, fd: Option<BorrowedFd<'_>>, flags: EventFlags) {
        let data = EventData::new_u64(token.pack());
        let result = match (fd, self.active.get(&token).copied()) {
            (None, _) => {
                self.active.remove(&token);
                return;
            }
            (Some(_), Some(old)) if old == flags => return,
            (Some(_), None) if flags.is_empty() => return,
            (Some(fd), Some(_)) if flags.is_empty() => {
                self.active.remove(&token);
                epoll::delete(&self.epoll, fd)
            }
            (Some(fd), Some(_)) => epoll::modify(&self.epoll, fd, data, flags),
            (Some(fd), None) => epoll::add(&self.epoll, fd, data, flags),
        };
        match result {
            Ok(()) if !flags.is_empty() => drop(self.active.insert(token, flags)),
            Ok(()) => {}
            Err(e) => eprintln!("sandgate-agent: epoll: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        let id = 1 << 50;
        for token in [
            Token::Listener,
            Token::Signals,
            Token::LinkIn(id),
            Token::LinkOut(id),
            Token::Session(id, Port::Stdin),
            Token::Session(id, Port::Main),
            Token::Session(id, Port::Stderr),
            Token::Connection(id, connection::Port::Socket),
            Token::Connection(id, connection::Port::FromHost),
            Token::Connection(id, connection::Port::ToHost),
            Token::Lookup(id),
            Token::Dialing(id),
            Token::Listening(id, false),
            Token::Listening(id, true),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
