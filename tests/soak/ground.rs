//! What all loads share: a gateway with a sandbox, the user's agent, when to stop, and counts.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sandgate_tests::process::Guard;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Options, Target, run};

/// Failures that are printed for each load.
const SAMPLES: usize = 5;
/// What asks the agent within this time of a restart may fail.
const EXCUSED: Duration = Duration::from_secs(5);

/// The ground.
pub struct Ground {
    /// The gateway, and its sandbox `box`.
    pub target: Target,
    agent: Mutex<UserAgent>,
}

struct UserAgent {
    process: Option<Guard>,
    /// When it was last stopped or started.
    changed: Instant,
}

impl Ground {
    /// Starts everything.
    pub fn new() -> Self {
        let options = Options {
            // Small enough to see memory that is not given back, large enough for the loads.
            create_args: ["--memory", "2G"].map(str::to_owned).to_vec(),
            ..Options::default()
        };
        let target = Target::start_with(&options);
        let agent = Mutex::new(UserAgent { process: None, changed: Instant::now() });
        let ground = Self { target, agent };
        ground.start_agent();
        ground
    }

    /// The socket of the user's agent.
    pub fn agent_socket(&self) -> PathBuf {
        self.target.dir().join("agent")
    }

    /// The public key in it.
    pub fn public_key(&self) -> String {
        std::fs::read_to_string(self.target.dir().join("id.pub")).unwrap().trim().to_owned()
    }

    /// `ssh ARGS…` with the user's agent at hand.
    pub fn ssh(&self, args: &[&str]) -> Command {
        let mut command = self.target.ssh(&["-o", "IdentityAgent=SSH_AUTH_SOCK"]);
        command.args(args).env("SSH_AUTH_SOCK", self.agent_socket());
        command
    }

    /// `sandgate ssh ARGS…` with the user's agent at hand.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = self.target.gateway().command(&["ssh"]);
        command.args(args).env("SSH_AUTH_SOCK", self.agent_socket());
        command
    }

    /// Ends the user's agent and starts it again at the same place, with a moment in between.
    pub fn restart_agent(&self) {
        {
            let mut agent = self.agent.lock().unwrap();
            agent.changed = Instant::now();
            agent.process = None;
        }
        std::thread::sleep(Duration::from_millis(300));
        self.start_agent();
    }

    /// Whether the user's agent was away a moment ago.
    pub fn agent_was_away(&self) -> bool {
        self.agent.lock().unwrap().changed.elapsed() < EXCUSED
    }

    fn start_agent(&self) {
        let socket = self.agent_socket();
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Guard::spawn(&mut command);
        assert!(until(Duration::from_secs(10), || socket.exists()), "ssh-agent does not start");
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(self.target.key()).env("SSH_AUTH_SOCK", &socket);
        run(&mut add, Feed::Null, Duration::from_secs(20)).ok();
        let mut agent = self.agent.lock().unwrap();
        agent.changed = Instant::now();
        agent.process = Some(process);
    }
}

/// When the loads stop.
pub struct Stop(Instant);

impl Stop {
    /// At that time.
    pub fn at(time: Instant) -> Self {
        Self(time)
    }

    /// Whether it is time.
    pub fn now(&self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps, but not beyond the end.
    pub fn sleep(&self, time: Duration) {
        std::thread::sleep(time.min(self.0.saturating_duration_since(Instant::now())));
    }
}

/// Counts of one load.
#[derive(Default)]
pub struct Tally {
    good: AtomicU64,
    excused: AtomicU64,
    cut: AtomicU64,
    failed: AtomicU64,
    samples: Mutex<Vec<String>>,
}

impl Tally {
    /// Something was as it should be.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// How much was not.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The first failures.
    pub fn samples(&self) -> Vec<String> {
        self.samples.lock().unwrap().clone()
    }

    /// Counts what was as it should be.
    pub fn succeed(&self) {
        self.good.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure that was to be expected.
    pub fn excuse(&self) {
        self.excused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts something that we ended ourselves in the middle.
    pub fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure.
    pub fn fail(&self, text: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut samples = self.samples.lock().unwrap();
        if samples.len() < SAMPLES {
            samples.push(text.chars().take(300).collect());
        }
    }

    /// Counts a result.
    pub fn count(&self, result: Result<(), String>) {
        match result {
            Ok(()) => self.succeed(),
            Err(text) => self.fail(&text),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (good, excused, cut) = (of(&self.good), of(&self.excused), of(&self.cut));
        write!(f, "{good:>9} {excused:>9} {cut:>9} {:>9}", self.failed())
    }
}

/// Numbers that differ from run to run; what is drawn decides nothing about success.
pub struct Dice(u64);

impl Dice {
    /// Seeded by the clock.
    pub fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self(now.as_nanos() as u64 | 1)
    }

    /// Below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
