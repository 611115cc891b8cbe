//! The event loop: one thread, one epoll.
//!
//! One thread is enough because bulk data of programs without terminal does not pass the agent at all, and it keeps an idle session
//! at a few kilobytes and makes fork safe. Everything is level-triggered; a descriptor is watched only while something can
//! be done about it, so nothing spins.

mod forwards;
mod links;
mod watch;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::event::{Timespec, epoll::Event as EpollEvent};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use sandgate_wire::message::{CloseReason, Exec, Opened, Reason};

use crate::launch::{Base, Refusal};
use crate::link::{Link, Transport};
use crate::session::{self, Ending, Passed, Port, Session};
use crate::{signals, sys};
use forwards::Forwards;
use watch::{Token, Watch};

/// Sessions at once.
const MAX_SESSIONS: usize = 1024;
/// Links at once: one per session, as many for questions, and one for each forwarded connection and listener.
const MAX_LINKS: usize = 2 * MAX_SESSIONS + forwards::MAX_CONNECTIONS + forwards::MAX_LISTENERS;
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
/// How often the first process of a container looks whether it is alone: the others are no children of its own, so nothing tells it.
const LOOK_AROUND: Duration = Duration::from_millis(50);

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
    /// Nothing: only to be there, to reap orphans, and to end everybody in order.
    Nothing,
}

/// Settings of the loop.
#[derive(Debug)]
pub struct Config {
    /// Between SIGHUP, SIGTERM and SIGKILL after the client has gone.
    pub grace: Duration,
    /// The agent's environment and user.
    pub base: Base,
    /// This is the init of a machine of its own.
    pub machine: bool,
    /// Descriptor limits to give to children, when the agent has raised its own.
    pub nofile: Option<(u64, u64)>,
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
    /// What runs here are other agents and their processes, so the end waits for everybody.
    holds: bool,
    links: HashMap<u64, Link>,
    /// When to look for links whose host has fallen silent.
    sweep_at: Option<Instant>,
    sessions: HashMap<u64, Session>,
    forwards: Forwards,
    /// Children by process id: the session, or the dial whose name they resolve.
    children: HashMap<i32, u64>,
    endings: Vec<Ending>,
    next_id: u64,
    /// Links, and sessions and forwards, to look at before the next wait.
    dirty_links: Vec<u64>,
    touched: Vec<u64>,
    input: Vec<u8>,
    phase: Phase,
}

impl Server {
    /// Prepares everything; serves nothing yet.
    pub fn new(config: Config, source: Source, signals: OwnedFd) -> io::Result<Self> {
        let mut server = Self {
            config,
            watch: Watch::new()?,
            listener: None,
            paused: None,
            reserve: rustix::io::fcntl_dupfd_cloexec(&signals, 3).ok(),
            signals,
            holds: matches!(source, Source::Nothing),
            links: HashMap::new(),
            sweep_at: None,
            sessions: HashMap::new(),
            forwards: Forwards::default(),
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
            Source::Nothing => {}
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
            Token::Connection(id, port) => self.on_connection(id, port, flags),
            Token::Lookup(id) | Token::Dialing(id) => self.advance_dial(id),
            Token::Listening(id, second) => self.on_listening(id, usize::from(second)),
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
        let passed = match (exec.passed_stdio, &exec.pty) {
            (false, _) => Passed::Nothing,
            (true, None) => link.take_passed().map_or(Passed::Nothing, Passed::Pipes),
            (true, Some(_)) => {
                link.take_passed().map_or(Passed::Nothing, |[terminal]| Passed::Terminal(terminal))
            }
        };
        let session = session::start(&self.config.base, self.config.nofile, exec, passed, link_id, stream)?;
        for ending in &mut self.endings {
            ending.forget_group(session.pid);
        }
        let id = self.next_id;
        self.next_id += 1;
        let (passed_stdio, own) = (session.is_passed(), session.is_own());
        link.streams.insert(stream, id);
        self.children.insert(session.pid, id);
        self.sessions.insert(id, session);
        self.touched.push(id);
        Ok(Opened::Exec { passed_stdio, own })
    }

    /// The client has no more interest in a session.
    fn drop_session(&mut self, id: u64, reason: CloseReason) {
        let Some(session) = self.sessions.remove(&id) else { return };
        for port in [Port::Stdin, Port::Main, Port::Stderr] {
            self.watch.set(Token::Session(id, port), session.port(port), EventFlags::empty());
        }
        // With passed pipes only the host knows whether output is still to come, and it says so by "done".
        let ended = session.is_over() && (reason == CloseReason::Done || !session.may_have_output());
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
                    if session.has_screen_left() {
                        // A terminal that is empty already will not become readable: look now.
                        session.pump_output(Port::Main, &mut link.mux);
                    }
                    session.finish(&mut link.mux);
                    self.dirty_links.push(session.link);
                } else {
                    self.finish_forward(*id);
                }
            }
            let mut dirty = std::mem::take(&mut self.dirty_links);
            dirty.sort_unstable();
            dirty.dedup();
            for id in dirty {
                self.settle_link(id);
            }
            for id in touched {
                self.watch_owner(id);
            }
        }
    }

    /// Brings epoll in step with what a session or forward waits for.
    fn watch_owner(&mut self, id: u64) {
        if self.sessions.contains_key(&id) { self.watch_session(id) } else { self.watch_forward(id) }
    }

    fn watch_session(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(link) = self.links.get_mut(&session.link) else { return };
        if !link.mux.has_output_room() {
            // Its output is not watched now; it must be looked at again when there is room.
            link.waiting.insert(id);
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
                // Only from programs such as `halt` and `poweroff`, which ask the init of a machine in this way.
                libc::SIGUSR1 | libc::SIGUSR2 if !self.config.machine => {}
                _ => self.stop(),
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(id) = self.children.remove(&pid.as_raw_nonzero().get()) else { continue };
            let Some(session) = self.sessions.get_mut(&id) else {
                self.lookup_reaped(id);
                continue;
            };
            session.set_exit(signals::exit_of(status));
            if let Some(link) = self.links.get_mut(&session.link) {
                // As with sshd: whoever else has the standard input open sees its end.
                session.input_hung_up(&mut link.mux);
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
            self.stop_forwards();
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        let grace = self.config.grace;
        self.endings.retain_mut(|e| e.at > now || e.advance(grace));
        self.forward_timers(now);
        self.sweep_links(now);
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
            session.signal_group(session.pid, signal);
            session.signal_group(session.pid, libc::SIGCONT);
        }
    }

    /// Whether the agent has nothing left to do and may exit.
    fn is_finished(&self) -> bool {
        let Phase::Stopping(step, _) = self.phase else { return false };
        let others = || self.holds && std::process::id() == 1 && sys::kill(-1, 0).is_ok();
        let alive = !self.children.is_empty() || self.endings.iter().any(Ending::is_alive) || others();
        // After SIGKILL and one more period nothing can be waited for.
        step > 3 || (step > 0 && !alive)
    }

    fn timeout(&self) -> Option<Timespec> {
        let stop = match self.phase {
            Phase::Stopping(_, at) if self.holds => Some(at.min(Instant::now() + LOOK_AROUND)),
            Phase::Stopping(_, at) => Some(at),
            Phase::Serving => None,
        };
        let forward = self.forwards.next_deadline();
        let next = self
            .endings
            .iter()
            .map(|e| e.at)
            .chain(stop)
            .chain(self.paused)
            .chain(forward)
            .chain(self.sweep_at)
            .min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }
}
