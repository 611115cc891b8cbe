//! Dials, connections and listeners in the guest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use sandgate_wire::message::{self, Accept, Dial, Incoming, Listen, Opened, Reason};

use super::watch::Token;
use super::{ACCEPT_PAUSE, Phase, Server};
use crate::connection::{Connection, Port};
use crate::dialing::{Dialing, Progress};
use crate::launch::Refusal;
use crate::listening::{Listening, Pending};
use crate::sys;

/// Connections at once: dialed or being dialed, and accepted or waiting to be.
pub(super) const MAX_CONNECTIONS: usize = 4096;
/// Listeners at once.
pub(super) const MAX_LISTENERS: usize = 256;
/// Names that are resolved at once; the others wait.
const MAX_LOOKUPS: usize = 16;
/// Connections taken from one listener before others get their turn.
const ACCEPT_TURN: usize = 16;

/// Everything that is not a session. The numbers are from the same row as those of sessions and links.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    dials: HashMap<u64, Dialing>,
    /// A dial keeps its number when it becomes a connection, and so does a connection that waited.
    pub(super) connections: HashMap<u64, Connection>,
    listeners: HashMap<u64, Listening>,
    pending: HashMap<u64, Pending>,
    /// Dials that wait for a resolver. At most as many as there are dials.
    lookup_queue: VecDeque<u64>,
    /// When to look at a dial, a waiting connection or a resting listener. One entry for each at most.
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Forwards {
    /// When something is to be done if nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn connection_count(&self) -> usize {
        self.dials.len() + self.connections.len() + self.pending.len()
    }

    fn lookups(&self) -> usize {
        self.dials.values().filter(|d| d.is_resolving()).count()
    }
}

impl Server {
    /// Begins to connect. The answer comes from [`Self::advance_dial`].
    pub(super) fn dial(&mut self, link_id: u64, stream: u32, dial: Dial) -> Result<(), Refusal> {
        self.check_room_for_connection()?;
        let Some(link) = self.links.get_mut(&link_id) else { return Ok(()) };
        let pipes = if dial.passed_stdio { link.take_passed() } else { None };
        let now = Instant::now();
        let dialing = Dialing::new(&self.config.base, dial, pipes, link_id, stream, now)?;
        let id = self.next_id;
        self.next_id += 1;
        link.streams.insert(stream, id);
        self.forwards.deadlines.insert((dialing.deadline(), id));
        self.forwards.dials.insert(id, dialing);
        self.advance_dial(id);
        Ok(())
    }

    fn check_room_for_connection(&self) -> Result<(), Refusal> {
        self.check_serving()?;
        if self.forwards.connection_count() >= MAX_CONNECTIONS {
            let text = format!("too many forwarded connections in this sandbox (at most {MAX_CONNECTIONS})");
            return Err(Refusal::new(Reason::TooMany, text));
        }
        Ok(())
    }

    fn check_serving(&self) -> Result<(), Refusal> {
        match self.phase {
            Phase::Serving => Ok(()),
            Phase::Stopping(..) => Err(Refusal::new(Reason::ShuttingDown, "the sandbox is stopping")),
        }
    }

    /// Goes on with a dial as far as possible, and answers when it has come to an end.
    pub(super) fn advance_dial(&mut self, id: u64) {
        let now = Instant::now();
        let Some(mut dialing) = self.forwards.dials.remove(&id) else { return };
        self.forwards.deadlines.remove(&(dialing.deadline(), id));
        // The descriptor may be another one afterwards.
        let (lookup, socket) = dialing.wait();
        self.watch.set(Token::Lookup(id), lookup, EventFlags::empty());
        self.watch.set(Token::Dialing(id), socket, EventFlags::empty());
        let was_resolving = dialing.is_resolving();
        let mut progress = dialing.advance(now);
        if let Progress::WantsLookup = progress {
            progress = self.begin_lookup(id, &mut dialing, now);
        }
        let link_id = dialing.link;
        match progress {
            Progress::Waiting | Progress::WantsLookup => {
                let (lookup, socket) = dialing.wait();
                self.watch.set(Token::Lookup(id), lookup, EventFlags::IN);
                self.watch.set(Token::Dialing(id), socket, EventFlags::OUT);
                self.forwards.deadlines.insert((dialing.deadline(), id));
                self.forwards.dials.insert(id, dialing);
            }
            Progress::Connected(socket) => {
                let connection = Connection::new(link_id, dialing.stream, socket, dialing.pipes.take());
                let opened = Opened::Dial { passed_stdio: connection.is_passed() };
                self.add_connection(id, connection, &opened);
            }
            Progress::Failed(refusal) => {
                if let Some(link) = self.links.get_mut(&link_id) {
                    link.streams.remove(&dialing.stream);
                    link.mux.refuse(dialing.stream, refusal.reason, &refusal.text);
                    self.dirty_links.push(link_id);
                }
                self.forwards.lookup_queue.retain(|other| *other != id);
                self.connection_has_gone();
            }
        }
        if was_resolving {
            self.next_lookup();
        }
    }

    fn begin_lookup(&mut self, id: u64, dialing: &mut Dialing, now: Instant) -> Progress {
        if self.forwards.lookups() >= MAX_LOOKUPS {
            if !self.forwards.lookup_queue.contains(&id) {
                self.forwards.lookup_queue.push_back(id);
            }
            return Progress::WantsLookup;
        }
        self.forwards.lookup_queue.retain(|other| *other != id);
        match dialing.look_up(&self.config.base, self.config.nofile, now) {
            Ok(Some(pid)) => {
                for ending in &mut self.endings {
                    ending.forget_group(pid);
                }
                self.children.insert(pid, id);
                Progress::Waiting
            }
            Ok(None) => Progress::Waiting,
            Err(refusal) => Progress::Failed(refusal),
        }
    }

    /// A resolver has become free.
    fn next_lookup(&mut self) {
        while self.forwards.lookups() < MAX_LOOKUPS
            && let Some(next) = self.forwards.lookup_queue.pop_front()
        {
            self.advance_dial(next);
        }
    }

    /// A child that was no session has been reaped.
    pub(super) fn lookup_reaped(&mut self, id: u64) {
        if let Some(dialing) = self.forwards.dials.get_mut(&id) {
            dialing.reaped();
        }
    }

    fn add_connection(&mut self, id: u64, mut connection: Connection, opened: &Opened) {
        let Some(link) = self.links.get_mut(&connection.link) else { return };
        link.mux.opened(connection.stream, opened);
        link.streams.insert(connection.stream, id);
        // The host may have ended its direction before it had the answer.
        connection.pump_in(&mut link.mux);
        self.forwards.connections.insert(id, connection);
        self.touched.push(id);
    }

    pub(super) fn on_connection(&mut self, id: u64, port: Port, flags: EventFlags) {
        let Some(connection) = self.forwards.connections.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(&connection.link) else { return };
        let hangup = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let (readable, writable) = (flags.contains(EventFlags::IN), flags.contains(EventFlags::OUT));
        connection.on_event(port, readable, writable, hangup, &mut link.mux);
        self.touched.push(id);
    }

    /// Begins to listen.
    pub(super) fn listen(&mut self, link_id: u64, stream: u32, listen: &Listen) -> Result<Opened, Refusal> {
        self.check_serving()?;
        if self.forwards.listeners.len() >= MAX_LISTENERS {
            let text = format!("too many listeners in this sandbox (at most {MAX_LISTENERS})");
            return Err(Refusal::new(Reason::TooMany, text));
        }
        let listening = Listening::start(&self.config.base, listen, link_id, stream)?;
        let at = message::Listening { port: listening.port(), path: listening.path().to_vec() };
        let id = self.next_id;
        self.next_id += 1;
        if let Some(link) = self.links.get_mut(&link_id) {
            link.streams.insert(stream, id);
            self.forwards.listeners.insert(id, listening);
            self.touched.push(id);
        }
        Ok(Opened::Listen(at))
    }

    /// Somebody connects to a listener.
    pub(super) fn on_listening(&mut self, id: u64, index: usize) {
        self.touched.push(id);
        for _ in 0..ACCEPT_TURN {
            let full = self.forwards.connection_count() >= MAX_CONNECTIONS;
            let Some(listening) = self.forwards.listeners.get_mut(&id) else { return };
            let Some(link) = self.links.get_mut(&listening.link) else { return };
            if full || !listening.has_room() || !link.mux.has_output_room() {
                return;
            }
            match listening.accept(index) {
                Ok(Some((socket, peer))) => {
                    let connection = self.next_id;
                    self.next_id += 1;
                    link.mux.send_incoming(listening.stream, &Incoming { id: connection, peer });
                    listening.pending += 1;
                    let end = listening.patience.map(|patience| Instant::now() + patience);
                    self.forwards.pending.insert(connection, Pending { socket, listener: id, end });
                    self.forwards.deadlines.extend(end.map(|end| (end, connection)));
                    self.dirty_links.push(listening.link);
                }
                Ok(None) => return,
                Err(_) => {
                    // No descriptor is left. Those who connect wait in the kernel.
                    let until = Instant::now() + ACCEPT_PAUSE;
                    listening.paused = Some(until);
                    self.forwards.deadlines.insert((until, id));
                    return;
                }
            }
        }
    }

    /// Gives a connection that was announced to the stream that asks for it.
    pub(super) fn take_pending(&mut self, link_id: u64, stream: u32, accept: Accept) -> Result<(), Refusal> {
        self.check_serving()?;
        let Some(link) = self.links.get_mut(&link_id) else { return Ok(()) };
        let pipes = if accept.passed_stdio { link.take_passed() } else { None };
        let Some(socket) = self.remove_pending(accept.id) else {
            return Err(Refusal::new(Reason::NotWaiting, "this connection does not wait any more"));
        };
        let connection = Connection::new(link_id, stream, socket, pipes);
        let opened = Opened::Accept { passed_stdio: connection.is_passed() };
        self.add_connection(accept.id, connection, &opened);
        Ok(())
    }

    /// The host does not want a connection that a listener of its own has announced.
    pub(super) fn reject(&mut self, link: u64, stream: u32, connection: u64) {
        let listener = self.links.get(&link).and_then(|l| l.streams.get(&stream)).copied();
        let pending = self.forwards.pending.get(&connection);
        if pending.is_some_and(|p| Some(p.listener) == listener) {
            drop(self.remove_pending(connection));
            self.connection_has_gone();
        }
    }

    /// A connection waits no longer: its listener has room for another.
    fn remove_pending(&mut self, id: u64) -> Option<OwnedFd> {
        let pending = self.forwards.pending.remove(&id)?;
        if let Some(end) = pending.end {
            self.forwards.deadlines.remove(&(end, id));
        }
        if let Some(listening) = self.forwards.listeners.get_mut(&pending.listener) {
            listening.pending = listening.pending.saturating_sub(1);
            self.touched.push(pending.listener);
        }
        Some(pending.socket)
    }

    /// There is one connection less.
    fn connection_has_gone(&mut self) {
        let left = self.forwards.connection_count();
        if left + 1 >= MAX_CONNECTIONS {
            // All listeners may have been waiting for that.
            self.touched.extend(self.forwards.listeners.keys());
        }
        if left == 0 {
            sys::trim_heap();
        }
    }

    /// Says that a connection has ended, once it has, and closes what it needs no more.
    pub(super) fn finish_forward(&mut self, id: u64) {
        let Some(connection) = self.forwards.connections.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(&connection.link) else { return };
        connection.finish(&mut link.mux);
        for port in connection.finished_ports() {
            self.watch.set(Token::Connection(id, port), connection.port(port), EventFlags::empty());
            connection.close(port);
        }
        self.dirty_links.push(connection.link);
    }

    /// Brings epoll in step with what a connection or listener waits for.
    pub(super) fn watch_forward(&mut self, id: u64) {
        if let Some(connection) = self.forwards.connections.get_mut(&id) {
            let Some(link) = self.links.get_mut(&connection.link) else { return };
            if !link.mux.has_output_room() {
                link.waiting.insert(id);
            }
            for port in [Port::Socket, Port::FromHost, Port::ToHost] {
                let interest = connection.interest(port, &link.mux);
                let mut flags = EventFlags::empty();
                flags.set(EventFlags::IN, interest.read);
                flags.set(EventFlags::OUT, interest.write);
                flags.set(EventFlags::ERR, interest.hangup);
                self.watch.set(Token::Connection(id, port), connection.port(port), flags);
            }
        } else if let Some(listening) = self.forwards.listeners.get(&id) {
            let full = self.forwards.connection_count() >= MAX_CONNECTIONS;
            let Some(link) = self.links.get_mut(&listening.link) else { return };
            let room = link.mux.has_output_room();
            if !room {
                link.waiting.insert(id);
            }
            let wanted = room && !full && listening.has_room();
            let flags = if wanted { EventFlags::IN } else { EventFlags::empty() };
            for (index, second) in [(0, false), (1, true)] {
                self.watch.set(Token::Listening(id, second), listening.socket(index), flags);
            }
        }
    }

    /// The host has no more interest in a dial, connection or listener.
    pub(super) fn drop_forward(&mut self, id: u64) {
        if let Some(connection) = self.forwards.connections.remove(&id) {
            for port in [Port::Socket, Port::FromHost, Port::ToHost] {
                self.watch.set(Token::Connection(id, port), connection.port(port), EventFlags::empty());
            }
            drop(connection);
            self.connection_has_gone();
        } else if let Some(dialing) = self.forwards.dials.remove(&id) {
            let (lookup, socket) = dialing.wait();
            self.watch.set(Token::Lookup(id), lookup, EventFlags::empty());
            self.watch.set(Token::Dialing(id), socket, EventFlags::empty());
            self.forwards.deadlines.remove(&(dialing.deadline(), id));
            self.forwards.lookup_queue.retain(|other| *other != id);
            let was_resolving = dialing.is_resolving();
            drop(dialing);
            self.connection_has_gone();
            if was_resolving {
                self.next_lookup();
            }
        } else if let Some(listening) = self.forwards.listeners.remove(&id) {
            for (index, second) in [(0, false), (1, true)] {
                self.watch.set(Token::Listening(id, second), listening.socket(index), EventFlags::empty());
            }
            if let Some(until) = listening.paused {
                self.forwards.deadlines.remove(&(until, id));
            }
            let waiting = self.forwards.pending.iter().filter(|(_, p)| p.listener == id).map(|(id, _)| *id);
            for pending in waiting.collect::<Vec<_>>() {
                drop(self.remove_pending(pending));
            }
            self.connection_has_gone();
        }
    }

    /// What is due: deadlines of dials, waiting connections that nobody took, listeners that rested.
    pub(super) fn forward_timers(&mut self, now: Instant) {
        while let Some((at, id)) = self.forwards.deadlines.first().copied()
            && at <= now
        {
            self.forwards.deadlines.pop_first();
            if self.forwards.dials.contains_key(&id) {
                self.advance_dial(id);
            } else if self.remove_pending(id).is_some() {
                self.connection_has_gone();
            } else if let Some(listening) = self.forwards.listeners.get_mut(&id) {
                listening.paused = None;
                self.touched.push(id);
            }
        }
    }

    /// The agent ends: nobody can connect any more, and nothing is left behind.
    pub(super) fn stop_forwards(&mut self) {
        let gone = self.forwards.dials.keys().chain(self.forwards.listeners.keys()).copied();
        for id in gone.collect::<Vec<_>>() {
            self.drop_forward(id);
        }
    }
}
