//! Links of the host: taking them, and what arrives on them.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use sandgate_wire::CAP_MACHINE;
use sandgate_wire::message::{CloseReason, MachineRequest, Open, Opened, Reason};
use sandgate_wire::mux::Event;

use super::watch::Token;
use super::{ACCEPT_PAUSE, MAX_LINKS, Server};
use crate::launch::Refusal;
use crate::link::{Link, Status, Transport};
use crate::session::Session;
use crate::{signals, sys};

impl Server {
    pub(super) fn accept(&mut self) {
        // A few at a time, so that running sessions get their turn.
        for _ in 0..16 {
            let Some(listener) = &self.listener else { return };
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) if self.links.len() >= MAX_LINKS => {
                    refuse_link(fd, "too many connections to the guest agent")
                }
                Ok(fd) => match sys::peer(fd.as_fd()) {
                    sys::Peer::Unix => drop(self.add_link(Transport::Socket(fd))),
                    sys::Peer::Host => drop(self.add_link(Transport::Vsock(fd))),
                    sys::Peer::Stranger => {}
                },
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // No descriptor is left. Use the reserve to say so; if that fails too, rest instead of spinning.
                    self.reserve = None;
                    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                    match rustix::net::accept_with(listener, flags) {
                        Ok(fd) => refuse_link(fd, "the guest agent has no file descriptors left"),
                        Err(_) => {
                            self.watch.set(Token::Listener, Some(listener.as_fd()), EventFlags::empty());
                            self.paused = Some(Instant::now() + ACCEPT_PAUSE);
                        }
                    }
                    self.reserve = rustix::io::fcntl_dupfd_cloexec(&self.signals, 3).ok();
                    return;
                }
            }
        }
    }

    pub(super) fn add_link(&mut self, transport: Transport) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let link = Link::new(transport, if self.config.machine { CAP_MACHINE } else { 0 });
        self.links.insert(id, link);
        self.dirty_links.push(id);
        id
    }

    pub(super) fn read_link(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.wants_input() {
            return;
        }
        let status = link.read(&mut self.input);
        loop {
            self.link_events(id);
            let Some(link) = self.links.get_mut(&id) else { return };
            if !link.digest() {
                link.drop_unclaimed();
                break;
            }
        }
        if !matches!(status, Ok(Status::Alive)) {
            self.end_link(id);
        }
    }

    fn link_events(&mut self, id: u64) {
        while let Some(event) = self.links.get_mut(&id).and_then(|l| l.mux.poll_event()) {
            match event {
                Event::Open(stream, open) => self.on_open(id, stream, open),
                Event::Closed(stream, reason) => self.on_closed(id, stream, reason),
                Event::Readable(stream) | Event::Eof(stream) => self.take_input(id, stream),
                Event::Writable(stream) => {
                    if let Some(owner) = self.links.get(&id).and_then(|l| l.streams.get(&stream)) {
                        self.touched.push(*owner);
                    }
                }
                Event::Resize(stream, size) => self.with_session(id, stream, |session| session.resize(size)),
                Event::Break(stream, _) => self.with_session(id, stream, |session| session.send_break()),
                Event::Signal(stream, name) => {
                    if let Some(number) = signals::number(&name) {
                        self.with_session(id, stream, |session| session.signal(number));
                    }
                }
                Event::ReaderGone(stream) => {
                    self.with_session(id, stream, Session::output_unwanted);
                }
                Event::Unwanted(stream, connection) => self.reject(id, stream, connection),
                Event::Pinged(patience) => self.host_promised(id, patience),
                Event::Hello
                | Event::Opened(..)
                | Event::Refused(..)
                | Event::Incoming(..)
                | Event::Exit(..) => {}
            }
        }
    }

    /// Data or its end has arrived for a stream.
    fn take_input(&mut self, link: u64, stream: u32) {
        let Some(link) = self.links.get_mut(&link) else { return };
        let Some(id) = link.streams.get(&stream).copied() else { return };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.pump_input(&mut link.mux);
        } else if let Some(connection) = self.forwards.connections.get_mut(&id) {
            connection.pump_in(&mut link.mux);
        }
        self.touched.push(id);
    }

    fn with_session(&mut self, link: u64, stream: u32, act: impl FnOnce(&mut Session)) {
        let Some(id) = self.links.get(&link).and_then(|l| l.streams.get(&stream)).copied() else { return };
        if let Some(session) = self.sessions.get_mut(&id) {
            act(session);
            self.touched.push(id);
        }
    }

    fn on_open(&mut self, link: u64, stream: u32, open: Open) {
        let result = match open {
            // Answered when it has come to an end.
            Open::Dial(dial) => match self.dial(link, stream, dial) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Open::Accept(accept) => match self.take_pending(link, stream, accept) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Open::Listen(listen) => self.listen(link, stream, &listen),
            Open::Info => Ok(Opened::Info {
                pid: std::process::id(),
                uid: self.config.base.uid,
                sessions: u32::try_from(self.sessions.len()).unwrap_or(u32::MAX),
            }),
            Open::Exec(exec) => self.exec(link, stream, &exec),
            Open::Machine(request) => self.machine(request),
            Open::Unsupported(kind) => Err(Refusal::new(
                Reason::Unsupported,
                format!(
                    "this guest agent ({}) does not serve requests of type {kind}",
                    crate::link::SOFTWARE
                ),
            )),
        };
        let Some(link) = self.links.get_mut(&link) else { return };
        match result {
            Ok(opened) => link.mux.opened(stream, &opened),
            Err(refusal) => link.mux.refuse(stream, refusal.reason, &refusal.text),
        }
    }

    fn machine(&mut self, request: MachineRequest) -> Result<Opened, Refusal> {
        if !self.config.machine {
            return Err(Refusal::new(Reason::Unsupported, "the guest agent is not the init of a machine"));
        }
        match request {
            MachineRequest::PowerOff => self.stop(),
            MachineRequest::SetClock { seconds, nanos } => crate::machine::set_clock(seconds, nanos)
                .map_err(|error| {
                    Refusal::new(Reason::NotPermitted, format!("the clock cannot be set: {error}"))
                })?,
        }
        Ok(Opened::Machine)
    }

    fn on_closed(&mut self, link: u64, stream: u32, reason: CloseReason) {
        let Some(link) = self.links.get_mut(&link) else { return };
        if let Some(id) = link.streams.remove(&stream) {
            link.waiting.remove(&id);
            self.drop_owner(id, reason);
        }
    }

    fn end_link(&mut self, id: u64) {
        let Some(mut link) = self.links.remove(&id) else { return };
        self.watch.set(Token::LinkIn(id), Some(link.input_fd()), EventFlags::empty());
        self.watch.set(Token::LinkOut(id), Some(link.output_fd()), EventFlags::empty());
        for owner in std::mem::take(&mut link.streams).into_values() {
            self.drop_owner(owner, CloseReason::Gone);
        }
        if link.is_stdio() {
            // Nobody can ever reach this agent again.
            self.stop();
        }
    }

    fn host_promised(&mut self, link: u64, patience: u32) {
        let Some(link) = self.links.get_mut(&link) else { return };
        link.promised(patience);
        self.sweep_at = [self.sweep_at, link.look_at(Instant::now())].into_iter().flatten().min();
    }

    /// Ends the links whose host has not been heard for as long as it promised never to be silent: it is hung, or gone without a word.
    pub(super) fn sweep_links(&mut self, now: Instant) {
        let Some(at) = self.sweep_at.filter(|at| *at <= now) else { return };
        // By so much we did not run, as in a machine that was paused, whose host has nobody to talk to.
        let late = now.saturating_duration_since(at);
        self.links.values_mut().for_each(|link| link.spare(late, now));
        let overdue = |link: &Link| link.silent_at().is_some_and(|at| at <= now);
        let silent: Vec<u64> =
            self.links.iter().filter(|(_, link)| overdue(link)).map(|(id, _)| *id).collect();
        for id in silent {
            // It may be us who did not run: what has arrived meanwhile counts.
            self.read_link(id);
            if self.links.get(&id).is_some_and(overdue) {
                eprintln!(
                    "sandgate-agent: the host is not responding; what it started on this link is ended"
                );
                self.host_is_silent(id);
            }
        }
        self.sweep_at = self.links.values().filter_map(|link| link.look_at(now)).min();
    }

    fn host_is_silent(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.is_stdio() {
            return self.end_link(id);
        }
        // The only way to this agent. It may come back to life.
        link.promised(0);
        let streams = std::mem::take(&mut link.streams);
        for stream in streams.keys() {
            link.mux.close(*stream, CloseReason::Gone);
        }
        self.dirty_links.push(id);
        for owner in streams.into_values() {
            self.drop_owner(owner, CloseReason::Gone);
        }
    }

    /// The client has no more interest in what a stream stands for.
    fn drop_owner(&mut self, id: u64, reason: CloseReason) {
        if self.sessions.contains_key(&id) {
            self.drop_session(id, reason);
        } else {
            self.drop_forward(id);
        }
    }

    pub(super) fn settle_link(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.flush() == Status::Ended {
            self.end_link(id);
            return;
        }
        if link.digest() {
            self.link_events(id);
            self.dirty_links.push(id);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let input = if link.wants_input() { EventFlags::IN } else { EventFlags::empty() };
        let output = if link.mux.output().is_empty() { EventFlags::empty() } else { EventFlags::OUT };
        let resumed =
            if link.mux.has_output_room() { std::mem::take(&mut link.waiting) } else { HashSet::new() };
        if link.is_stdio() {
            self.watch.set(Token::LinkIn(id), Some(link.input_fd()), input);
            self.watch.set(Token::LinkOut(id), Some(link.output_fd()), output);
        } else {
            self.watch.set(Token::LinkIn(id), Some(link.input_fd()), input | output);
        }
        // Looked at, and then watched again.
        self.touched.extend(resumed);
    }
}

/// Tells a connection that it cannot be served, if that is possible at once.
fn refuse_link(fd: OwnedFd, text: &str) {
    let mut link = Link::new(Transport::Socket(fd), 0);
    link.mux.refuse(0, Reason::Resources, text);
    link.flush();
}
