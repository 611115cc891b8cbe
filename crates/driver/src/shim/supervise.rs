//! Waiting for the end of a sandbox.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, recv};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait, waitpid,
};

use super::external::External;
use super::lend::lend;
use super::message::Failure;
use super::network::{self, GuestNetwork};
use super::terminals::{self, Terminals};
use super::vm::Machine;

/// How much of what the agent prints is kept, in bytes. The guest may be able to print through it, so there is an end.
const MAX_AGENT_LOG: usize = 256 << 10;

/// Reads of that in one turn.
const MAX_READS: usize = 64;

/// How long nobody listens to a sandbox or its QEMU that says more than is read in one turn. They can say things without end, and the time that
/// reading takes is not charged to them.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);

/// Askers that are remembered to be answered at the end; more are answered by the closed connection.
const MAX_ASKERS: usize = 16;

/// Those who wait for the sandbox's end. Each is a listener of a client; more of them listen by the agent.
const MAX_WATCHERS: usize = 1024;

/// How long an asker may take to send its line.
const ASK_PATIENCE: Duration = Duration::from_millis(500);

/// How long a runtime's other processes may take to follow init.
const REST_PATIENCE: Duration = Duration::from_millis(500);

/// Grace on SIGTERM to the shim itself, as at the machine's shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// After a request.
    Requested,
    /// Init's exit code.
    Exited(i32),
    /// The signal that killed init.
    Killed(i32),
}

/// Watches init, its output, and the requests to stop it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pid: Pid,
    pidfd: OwnedFd,
    log: Option<OwnedFd>,
    log_file: File,
    logged: usize,
    /// More was said than was read in the last turn.
    flooded: bool,
    control: UnixListener,
    signals: Option<SignalFd>,
    /// Through whom SIGTERM goes where init is not a process of the host's.
    messenger: Option<External>,
    /// What the gateway may make terminals of.
    terminals: Option<Terminals>,
    /// What the gateway may connect and listen in.
    network: Option<GuestNetwork>,
    /// Connections of who wants to learn of the sandbox's end.
    watchers: Vec<UnixStream>,
    /// The controls of a virtual machine.
    machine: Option<Machine>,
    askers: Vec<UnixStream>,
    /// When a stop was asked for and SIGKILL follows.
    kill_at: Option<Instant>,
    requested: bool,
}

impl Supervisor {
    pub(crate) fn new(
        pid: i32,
        log: OwnedFd,
        log_file: File,
        control: UnixListener,
    ) -> Result<Self, Failure> {
        let pid =
            Pid::from_raw(pid).ok_or_else(|| Failure::runtime("the container's process has no number"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Failure::io("watch the container"))?;
        fcntl_setfl(&log, OFlags::NONBLOCK).map_err(Failure::io("watch the agent's output"))?;
        control.set_nonblocking(true).map_err(Failure::io("watch for requests"))?;
        Ok(Self {
            pid,
            pidfd,
            log: Some(log),
            log_file,
            logged: 0,
            flooded: false,
            control,
            signals: None,
            messenger: None,
            terminals: None,
            network: None,
            watchers: Vec::new(),
            machine: None,
            askers: Vec::new(),
            kill_at: None,
            requested: false,
        })
    }

    /// Takes the signals of this process from here on.
    pub(crate) fn watch(&mut self, signals: SignalFd) {
        self.signals = Some(signals);
    }

    /// Sends SIGTERM by the runtime from here on.
    pub(crate) fn terminate_by(&mut self, runtime: External) {
        self.messenger = Some(runtime);
    }

    /// Lets the gateway make terminals and connections in the sandbox.
    pub(crate) fn lend(&mut self, terminals: Option<Terminals>, network: Option<GuestNetwork>) {
        (self.terminals, self.network) = (terminals, network);
    }

    /// Has a virtual machine's controls from here on.
    pub(crate) fn control(&mut self, machine: Machine) {
        self.machine = Some(machine);
    }

    /// Gives the controls back.
    pub(crate) fn take_machine(&mut self) -> Option<Machine> {
        self.machine.take()
    }

    /// Kills init and waits for it.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }

    /// Returns when init has ended. Its whole pid namespace has ended with it.
    pub(crate) fn run(&mut self) -> Ending {
        loop {
            if let Some(ending) = self.reap() {
                // A machine's vsock device does not follow its QEMU; it is ended.
                if self.machine.is_none() {
                    self.reap_rest();
                }
                self.copy_log();
                return if self.requested { Ending::Requested } else { ending };
            }
            self.wait();
            self.flooded = self.copy_log();
            self.read_signals();
            self.accept();
            if let Some(machine) = &mut self.machine {
                self.flooded |= machine.drain();
                if machine.has_lost_its_device() {
                    self.device_is_gone("serves nobody any more");
                }
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
                self.kill_at = None;
            }
        }
    }

    /// Tells everybody who asked that the sandbox has ended and nothing is left of it.
    pub(crate) fn answer(&mut self) {
        self.watchers.clear();
        for mut asker in self.askers.drain(..) {
            let _ = asker.write_all(b"stopped\n");
        }
    }

    fn wait(&self) {
        let look = self.machine.as_ref().map(Machine::next_look);
        let flood = self.flooded.then(|| Instant::now() + FLOOD_PAUSE);
        let timeout = self.kill_at.into_iter().chain(look).chain(flood).min();
        let timeout = timeout.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|t| Timespec::try_from(t + Duration::from_millis(1)).ok());
        let mut fds =
            vec![PollFd::new(&self.pidfd, PollFlags::IN), PollFd::new(&self.control, PollFlags::IN)];
        if let Some(signals) = &self.signals {
            fds.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        }
        if !self.flooded {
            let qmp = self.machine.as_ref().and_then(Machine::qmp_fd);
            fds.extend(qmp.map(|qmp| PollFd::from_borrowed_fd(qmp, PollFlags::IN)));
            fds.extend(self.log.as_ref().map(|log| PollFd::new(log, PollFlags::IN)));
        }
        // Woken too early or by a signal: the loop looks at everything again.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Reaps whoever has ended; `Some` when init was among them.
    fn reap(&self) -> Option<Ending> {
        let mut ending = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                ending = Some(self.ending(status));
            } else if self.machine.as_ref().is_some_and(|machine| machine.is_device(pid)) {
                self.device_is_gone(&format!("has ended ({status:?})"));
            }
        }
        if ending.is_some() || !self.has_ended() {
            return ending;
        }
        // Ended since, or, with an external runtime, somebody else's child after all, whose code nobody tells us.
        match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => Some(self.ending(status)),
            Ok(None) | Err(_) => Some(Ending::Exited(0)),
        }
    }

    /// A machine that nobody can reach any more is of no use. One that was asked to stop may be about to, and is killed in time.
    fn device_is_gone(&self, how: &str) {
        eprintln!("the vsock device {how}; its machine cannot be reached any more");
        if !self.requested {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// A runtime's other processes (gVisor's gofer) follow their init; `delete` waits in vain for what is not reaped.
    fn reap_rest(&self) {
        let deadline = Instant::now() + REST_PATIENCE;
        while Instant::now() < deadline {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        }
    }

    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn ending(&self, status: WaitStatus) -> Ending {
        match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Ending::Killed(signal),
            (code, None) => Ending::Exited(code.unwrap_or_default()),
        }
    }

    /// Whether there is more.
    fn copy_log(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        for _ in 0..MAX_READS {
            let Some(log) = &self.log else { return false };
            match rustix::io::read(log, &mut buffer) {
                Ok(0) => self.log = None,
                Ok(n) => {
                    let room = MAX_AGENT_LOG.saturating_sub(self.logged).min(n);
                    let _ = self.log_file.write_all(&buffer[..room]);
                    self.logged += room;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => self.log = None,
            }
        }
        true
    }

    fn read_signals(&mut self) {
        while let Some(Ok(Some(info))) = self.signals.as_ref().map(SignalFd::read_signal) {
            // SIGCHLD only wakes us; a hangup or interrupt is not meant for the sandbox.
            if i32::try_from(info.ssi_signo).is_ok_and(|n| n == Signal::TERM.as_raw()) {
                self.stop(SHUTDOWN_GRACE);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((asker, _)) = self.control.accept() {
            match read_request(&asker) {
                Some(Request::Stop(grace)) => {
                    self.stop(grace);
                    if self.askers.len() < MAX_ASKERS {
                        self.askers.push(asker);
                    }
                }
                Some(Request::Terminals) => terminals::answer(self.terminals.as_ref(), &asker),
                Some(Request::Socket(family)) => network::answer(self.network.as_ref(), family, &asker),
                Some(Request::Presence) => self.add_watcher(asker),
                Some(Request::Pause) => self.change(asker, Machine::pause),
                Some(Request::Resume) => self.change(asker, Machine::resume),
                None => {}
            }
        }
    }

    fn add_watcher(&mut self, watcher: UnixStream) {
        // Who has gone says so by an end of data, and nobody says anything else.
        let is_there = |it: &UnixStream| {
            let mut byte = [0u8; 1];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            matches!(recv(it, &mut byte[..], flags), Err(Errno::AGAIN))
        };
        self.watchers.retain(is_there);
        if self.watchers.len() < MAX_WATCHERS {
            lend(&watcher, "present\n", None);
            self.watchers.push(watcher);
        }
    }

    fn change(&mut self, mut asker: UnixStream, how: fn(&mut Machine) -> Result<(), Failure>) {
        let result = match &mut self.machine {
            Some(_) if self.requested => Err(Failure::other("it is being stopped")),
            Some(machine) => how(machine),
            None => Err(Failure::other("it cannot be paused")),
        };
        let answer = match result {
            Ok(()) => "done".to_owned(),
            Err(failure) => failure.reason,
        };
        let _ = asker.write_all(answer.as_bytes());
    }

    fn stop(&mut self, grace: Duration) {
        let at = Instant::now() + grace;
        self.requested = true;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        if let Some(machine) = &mut self.machine {
            machine.power_off();
            return;
        }
        if let Some(messenger) = &self.messenger {
            if let Err(failure) = messenger.terminate() {
                eprintln!("cannot ask the agent to end: {}", failure.reason);
            }
            return;
        }
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
    }
}

/// What may be asked of a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    /// To end within this time.
    Stop(Duration),
    /// For the directory of the sandbox's terminals.
    Terminals,
    /// For a TCP socket in the sandbox's network.
    Socket(AddressFamily),
    /// To hear of the sandbox's end.
    Presence,
    Pause,
    Resume,
}

/// `stop MILLISECONDS`, `terminals`, `socket4`, `socket6`, `presence`, `pause` or `resume`: one line.
fn read_request(mut asker: &UnixStream) -> Option<Request> {
    asker.set_nonblocking(false).ok()?;
    asker.set_read_timeout(Some(ASK_PATIENCE)).ok()?;
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    while line.len() < 32 && asker.read(&mut byte).ok()? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    let text = String::from_utf8(line).ok()?;
    match text.as_str() {
        "terminals" => return Some(Request::Terminals),
        "socket4" => return Some(Request::Socket(AddressFamily::INET)),
        "socket6" => return Some(Request::Socket(AddressFamily::INET6)),
        "presence" => return Some(Request::Presence),
        "pause" => return Some(Request::Pause),
        "resume" => return Some(Request::Resume),
        _ => {}
    }
    let milliseconds: u64 = text.strip_prefix("stop ")?.parse().ok()?;
    // A day is as good as for ever, and does not overflow the clock.
    Some(Request::Stop(Duration::from_millis(milliseconds.min(86_400_000))))
}
