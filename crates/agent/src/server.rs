//! The event loop: one thread, one epoll.
//!
//! One thread is enough because bulk data of programs without terminal does not pass the agent at all, and it keeps an idle session
//! at a few kilobytes and makes fork safe. Everything is level-triggered; a descriptor is watched only while something can
//! be done about it, so nothing spins.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{Timespec, epoll::Event as EpollEvent};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{WaitOptions, wait};
use sandgate_wire::message::{CloseReason, Exec, Open, Opened, Reason};
use sandgate_wire::mux::Event;

use crate::launch::{Base, Refusal};
use crate::link::{Link, Status, Transport};
use crate::session::{self, Ending, Port, Session};
use crate::{signals, sys};

/// Sessions at once.
const MAX_SESSIONS: usize = 1024;
/// Connections at once: one per session, and some for questions.
const MAX_LINKS: usize = 2 * MAX_SESSIONS;
/// Process groups that are being ended at once; beyond it the oldest are killed without further grace.
const MAX_ENDINGS: usize = 4 * MAX_SESSIONS;
/// Size of the one input buffer, in bytes.
const INPUT_BUFFER: usize = 64 * 1024;
/// Events taken from the kernel at once.
const EVENT_BATCH: usize = 128;
/// How long the listener rests when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest time between the steps of an orderly end of the agent itself.
const MAX_SHUTDOWN_STEP: Duration = Duration::from_secs(2);

/// What to serve.
#[derive(Debug)]
pub enum Source {
    /// A listening Unix socket.
    Listener(OwnedFd),
    /// One link over standard input and output.
    Stdio {
        /// From the host.
        input: OwnedFd,
        /// To the host.
        output: OwnedFd,
    },
}

/// Settings of the loop.
#[derive(Debug)]
pub struct Config {
    /// Between SIGHUP, SIGTERM and SIGKILL after the client has gone.
    pub grace: Duration,
    /// The agent's environment and user.
    pub base: Base,
    /// Descriptor limits to give to children, when the agent has raised its own.
    pub nofile: Option<(u64, u64)>,
}

/// What an event is about. Packed into the 64 bits that epoll carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    Listener,
    Signals,
    LinkIn(u64),
    LinkOut(u64),
    Session(u64, Port),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::LinkIn(id) => (2, id),
            Token::LinkOut(id) => (3, id),
            Token::Session(id, Port::Stdin) => (4, id),
            Token::Session(id, Port::Main) => (5, id),
            Token::Session(id, Port::Stderr) => (6, id),
        };
        id << 3 | kind
    }

    fn unpack(raw: u64) -> Self {
        let id = raw >> 3;
        match raw & 7 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::LinkIn(id),
            3 => Token::LinkOut(id),
            4 => Token::Session(id, Port::Stdin),
            5 => Token::Session(id, Port::Main),
            _ => Token::Session(id, Port::Stderr),
        }
    }
}

/// Keeps track of what epoll watches.
struct Watch {
    epoll: OwnedFd,
    active: HashMap<Token, EventFlags>,
}

impl Watch {
    /// Makes epoll watch `fd` for `flags`; empty flags end the watch, so that not even a hangup is reported.
    fn set(&mut self, token: Token, fd: Option<BorrowedFd<'_>>, flags: EventFlags) {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Signals sent so far, and when the next one is due.
    Stopping(u8, Instant),
}

/// The agent.
pub struct Server {
    config: Config,
    watch: Watch,
    listener: Option<OwnedFd>,
    /// The listener rests until then.
    paused: Option<Instant>,
    /// Given up for a moment to be able to refuse a connection when there are no descriptors.
    reserve: Option<OwnedFd>,
    signals: OwnedFd,
    links: HashMap<u64, Link>,
    sessions: HashMap<u64, Session>,
    /// Children by process id: the session while it lasts.
    children: HashMap<i32, u64>,
    endings: Vec<Ending>,
    next_id: u64,
    /// Links and sessions to look at before the next wait.
    dirty_links: Vec<u64>,
    touched: Vec<u64>,
    input: Vec<u8>,
    phase: Phase,
}

impl Server {
    /// Prepares everything; serves nothing yet.
    pub fn new(config: Config, source: Source, signals: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut server = Self {
            config,
            watch: Watch { epoll, active: HashMap::new() },
            listener: None,
            paused: None,
            reserve: rustix::io::fcntl_dupfd_cloexec(&signals, 3).ok(),
            signals,
            links: HashMap::new(),
            sessions: HashMap::new(),
            children: HashMap::new(),
            endings: Vec::new(),
            next_id: 1,
            dirty_links: Vec::new(),
            touched: Vec::new(),
            input: vec![0; INPUT_BUFFER],
            phase: Phase::Serving,
        };
        server.watch.set(Token::Signals, Some(server.signals.as_fd()), EventFlags::IN);
        match source {
            Source::Listener(fd) => {
                rustix::io::ioctl_fionbio(&fd, true)?;
                server.watch.set(Token::Listener, Some(fd.as_fd()), EventFlags::IN);
                server.listener = Some(fd);
            }
            Source::Stdio { input, output } => {
                rustix::io::ioctl_fionbio(&input, true)?;
                rustix::io::ioctl_fionbio(&output, true)?;
                server.add_link(Transport::Stdio { input, output });
            }
        }
        Ok(server)
    }

    /// Serves until a signal or the end of the only link says otherwise.
    pub fn run(mut self) -> io::Result<()> {
        let mut events: Vec<EpollEvent> = Vec::with_capacity(EVENT_BATCH);
        loop {
            self.settle();
            if self.is_finished() {
                return Ok(());
            }
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(
                &self.watch.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            self.timers();
            for event in &events {
                let flags = event.flags;
                self.handle(Token::unpack(event.data.u64()), flags);
            }
        }
    }

    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.on_signals(),
            Token::LinkOut(id) => self.dirty_links.push(id),
            Token::LinkIn(id) => {
                self.dirty_links.push(id);
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.read_link(id);
                }
            }
            Token::Session(id, port) => self.on_session(id, port, flags),
        }
    }

    fn on_session(&mut self, id: u64, port: Port, flags: EventFlags) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(&session.link) else { return };
        if port == Port::Stdin {
            if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
                session.input_hung_up(&mut link.mux);
            } else {
                session.pump_input(&mut link.mux);
            }
        } else {
            if flags.contains(EventFlags::OUT) {
                session.pump_input(&mut link.mux);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                session.pump_output(port, &mut link.mux);
            }
        }
        self.touched.push(id);
    }

    fn accept(&mut self) {
        // A few at a time, so that running sessions get their turn.
        for _ in 0..16 {
            let Some(listener) = &self.listener else { return };
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) if self.links.len() >= MAX_LINKS => {
                    refuse_link(fd, "too many connections to the guest agent")
                }
                Ok(fd) => drop(self.add_link(Transport::Socket(fd))),
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

    fn add_link(&mut self, transport: Transport) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let link = Link::new(transport);
        self.links.insert(id, link);
        self.dirty_links.push(id);
        id
    }

    fn read_link(&mut self, id: u64) {
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
                Event::Readable(stream) | Event::Eof(stream) => {
                    self.with_session(id, stream, |session, link| session.pump_input(&mut link.mux));
                }
                Event::Writable(stream) => self.with_session(id, stream, |_, _| {}),
                Event::Resize(stream, size) => {
                    self.with_session(id, stream, |session, _| session.resize(size))
                }
                Event::Break(stream, _) => self.with_session(id, stream, |session, _| session.send_break()),
                Event::Signal(stream, name) => {
                    if let Some(number) = signals::number(&name) {
                        self.with_session(id, stream, |session, _| session.signal(number));
                    }
                }
                Event::Hello
                | Event::Opened(..)
                | Event::Refused(..)
                | Event::ReaderGone(_)
                | Event::Exit(..) => {}
            }
        }
    }

    fn with_session(&mut self, link: u64, stream: u32, act: impl FnOnce(&mut Session, &mut Link)) {
        let Some(link) = self.links.get_mut(&link) else { return };
        let Some(id) = link.sessions.get(&stream).copied() else { return };
        if let Some(session) = self.sessions.get_mut(&id) {
            act(session, link);
            self.touched.push(id);
        }
    }

    fn on_open(&mut self, link: u64, stream: u32, open: Open) {
        let result = match open {
            Open::Info => Ok(Opened::Info {
                pid: std::process::id(),
                uid: self.config.base.uid,
                sessions: u32::try_from(self.sessions.len()).unwrap_or(u32::MAX),
            }),
            Open::Exec(exec) => self.exec(link, stream, &exec),
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

    fn exec(&mut self, link_id: u64, stream: u32, exec: &Exec) -> Result<Opened, Refusal> {
        if self.phase != Phase::Serving {
            return Err(Refusal::new(Reason::ShuttingDown, "the sandbox is stopping"));
        }
        if self.sessions.len() >= MAX_SESSIONS {
            let text = format!("too many sessions in this sandbox (at most {MAX_SESSIONS})");
            return Err(Refusal::new(Reason::TooMany, text));
        }
        let Some(link) = self.links.get_mut(&link_id) else {
            return Err(Refusal::new(Reason::BadRequest, "the link has gone"));
        };
        let passed = if exec.passed_stdio { link.take_passed() } else { None };
        let session = session::start(&self.config.base, self.config.nofile, exec, passed, link_id, stream)?;
        for ending in &mut self.endings {
            ending.forget_group(session.pid);
        }
        let id = self.next_id;
        self.next_id += 1;
        let passed_stdio = session.is_passed();
        link.sessions.insert(stream, id);
        self.children.insert(session.pid, id);
        self.sessions.insert(id, session);
        self.touched.push(id);
        Ok(Opened::Exec { passed_stdio })
    }

    fn on_closed(&mut self, link: u64, stream: u32, reason: CloseReason) {
        if let Some(id) = self.links.get_mut(&link).and_then(|l| l.sessions.remove(&stream)) {
            self.drop_session(id, reason);
        }
    }

    fn end_link(&mut self, id: u64) {
        let Some(mut link) = self.links.remove(&id) else { return };
        self.watch.set(Token::LinkIn(id), Some(link.input_fd()), EventFlags::empty());
        self.watch.set(Token::LinkOut(id), Some(link.output_fd()), EventFlags::empty());
        for session in std::mem::take(&mut link.sessions).into_values() {
            self.drop_session(session, CloseReason::Gone);
        }
        if link.is_stdio() {
            // Nobody can ever reach this agent again.
            self.stop();
        }
    }

    /// The client has no more interest in a session.
    fn drop_session(&mut self, id: u64, reason: CloseReason) {
        let Some(session) = self.sessions.remove(&id) else { return };
        for port in [Port::Stdin, Port::Main, Port::Stderr] {
            self.watch.set(Token::Session(id, port), session.port(port), EventFlags::empty());
        }
        // With passed pipes only the host knows whether output is still to come, and it says so by "done".
        let ended = session.is_over() && (reason == CloseReason::Done || !session.is_passed());
        if !ended {
            if self.endings.len() >= MAX_ENDINGS {
                let mut oldest = self.endings.remove(0);
                oldest.step = session::Step::Kill;
                oldest.advance(Duration::ZERO);
            }
            self.endings.push(session.hang_up(self.config.grace));
        }
        if self.sessions.is_empty() {
            sys::trim_heap();
        }
    }

    /// Brings links, sessions and epoll in step before waiting.
    fn settle(&mut self) {
        while !self.touched.is_empty() || !self.dirty_links.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            touched.sort_unstable();
            touched.dedup();
            for id in &touched {
                if let Some(session) = self.sessions.get_mut(id)
                    && let Some(link) = self.links.get_mut(&session.link)
                {
                    session.finish(&mut link.mux);
                    self.dirty_links.push(session.link);
                }
            }
            let mut dirty = std::mem::take(&mut self.dirty_links);
            dirty.sort_unstable();
            dirty.dedup();
            for id in dirty {
                self.settle_link(id);
            }
            for id in touched {
                self.watch_session(id);
            }
        }
    }

    fn settle_link(&mut self, id: u64) {
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
        let resumed = if link.mux.has_output_room() { std::mem::take(&mut link.waiting) } else { Vec::new() };
        if link.is_stdio() {
            self.watch.set(Token::LinkIn(id), Some(link.input_fd()), input);
            self.watch.set(Token::LinkOut(id), Some(link.output_fd()), output);
        } else {
            self.watch.set(Token::LinkIn(id), Some(link.input_fd()), input | output);
        }
        for session_id in resumed {
            if let Some(session) = self.sessions.get_mut(&session_id) {
                session.waits_for_output = false;
            }
            self.watch_session(session_id);
        }
    }

    fn watch_session(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(&session.link) else { return };
        if !link.mux.has_output_room() && !session.waits_for_output {
            // Its output is not watched now; it must be looked at again when there is room.
            session.waits_for_output = true;
            link.waiting.push(id);
        }
        for port in [Port::Stdin, Port::Main, Port::Stderr] {
            let interest = session.interest(port, &link.mux);
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, interest.read);
            flags.set(EventFlags::OUT, interest.write);
            // An error is always reported; the flag only keeps the watch alive.
            flags.set(EventFlags::ERR, interest.hangup);
            self.watch.set(Token::Session(id, port), session.port(port), flags);
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(signal)) = session::read_signal(self.signals.as_fd()) {
            match signal {
                libc::SIGCHLD => {}
                libc::SIGHUP if std::process::id() != 1 => {}
                _ => self.stop(),
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(id) = self.children.remove(&pid.as_raw_nonzero().get()) else { continue };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.set_exit(signals::exit_of(status));
            if let Some(link) = self.links.get_mut(&session.link) {
                // A terminal that is empty already will not become readable: look now.
                session.pump_output(Port::Main, &mut link.mux);
            }
            self.touched.push(id);
        }
    }

    /// Begins the orderly end.
    fn stop(&mut self) {
        if self.phase == Phase::Serving {
            self.phase = Phase::Stopping(0, Instant::now());
            self.listener = None;
            self.watch.set(Token::Listener, None, EventFlags::empty());
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        let grace = self.config.grace;
        self.endings.retain_mut(|e| e.at > now || e.advance(grace));
        if let Some(at) = self.paused
            && at <= now
        {
            self.paused = None;
            if let Some(listener) = &self.listener {
                self.watch.set(Token::Listener, Some(listener.as_fd()), EventFlags::IN);
            }
        }
        if let Phase::Stopping(step, at) = self.phase
            && at <= now
        {
            let signal = match step {
                0 => libc::SIGHUP,
                1 => libc::SIGTERM,
                _ => libc::SIGKILL,
            };
            self.signal_everybody(signal);
            let wait = if step >= 2 { MAX_SHUTDOWN_STEP } else { grace.min(MAX_SHUTDOWN_STEP) };
            self.phase = Phase::Stopping(step.saturating_add(1), now + wait);
        }
    }

    fn signal_everybody(&self, signal: i32) {
        if std::process::id() == 1 {
            let _ = sys::kill(-1, signal);
            let _ = sys::kill(-1, libc::SIGCONT);
            return;
        }
        for session in self.sessions.values() {
            let _ = sys::kill(-session.pid, signal);
            let _ = sys::kill(-session.pid, libc::SIGCONT);
        }
    }

    /// Whether the agent has nothing left to do and may exit.
    fn is_finished(&self) -> bool {
        let Phase::Stopping(step, _) = self.phase else { return false };
        let alive = !self.children.is_empty() || self.endings.iter().any(Ending::is_alive);
        // After SIGKILL and one more period nothing can be waited for.
        step > 3 || (step > 0 && !alive)
    }

    fn timeout(&self) -> Option<Timespec> {
        let stop = match self.phase {
            Phase::Stopping(_, at) => Some(at),
            Phase::Serving => None,
        };
        let next = self.endings.iter().map(|e| e.at).chain(stop).chain(self.paused).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }
}

/// Tells a connection that it cannot be served, if that is possible at once.
fn refuse_link(fd: OwnedFd, text: &str) {
    let mut link = Link::new(Transport::Socket(fd));
    link.mux.refuse(0, Reason::Resources, text);
    link.flush();
}
