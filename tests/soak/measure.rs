//! What gateway and guest agent hold when nothing runs.

use std::fmt;
use std::time::{Duration, Instant};

use sandgate_tests::process::resident;
use sandgate_tests::{Feed, run};

use crate::ground::Ground;

/// What memory may differ by: allocators keep some of what was used once. A leak in a run of hours is larger.
const GATEWAY_SLACK: u64 = 24 << 20;
const AGENT_SLACK: u64 = 4 << 20;
/// Threads of the runtime that end after ten idle seconds, and those that a first use has started, vary.
const THREAD_SLACK: usize = 8;

/// The first measurement waits so long: idle threads end after ten seconds, and hung up processes after as many.
const CALM: Duration = Duration::from_secs(20);

/// At rest.
pub struct Rest {
    gateway: Process,
    agent: Process,
    sessions: usize,
    /// Tasks of the gateway.
    tasks: u64,
    /// Processes in the sandbox, less the one that counts.
    processes: usize,
    /// Gauges of `/metrics` that are not zero.
    gauges: Vec<String>,
}

#[derive(Clone, Copy)]
struct Process {
    descriptors: usize,
    threads: usize,
    memory: u64,
}

impl Process {
    fn of(pid: u32) -> Self {
        let entries = |what: &str| {
            std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, std::iter::Iterator::count)
        };
        Self { descriptors: entries("fd"), threads: entries("task"), memory: resident(pid) }
    }
}

impl Rest {
    /// Waits until nothing runs any more and, if there is an earlier measurement, until it is reached; at most `time`.
    pub fn wait(ground: &Ground, time: Duration, earlier: Option<&Rest>) -> Rest {
        let begin = Instant::now();
        loop {
            let rest = Rest::now(ground);
            let quiet = rest.sessions == 0 && rest.gauges.is_empty();
            let back = match earlier {
                Some(earlier) => rest.compared_with(earlier).is_empty(),
                None => begin.elapsed() > CALM,
            };
            if quiet && back || begin.elapsed() > time {
                return rest;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn now(ground: &Ground) -> Rest {
        let gateway = ground.target.gateway();
        let count = "ls -d /proc/[0-9]* | wc -l";
        let mut command = gateway.command(&["exec", "box", "--", "sh", "-c", count]);
        let processes = run(&mut command, Feed::Null, Duration::from_secs(60)).ok();
        let pid = gateway.json(&["sandbox", "inspect", "box"])["pid"].as_u64().unwrap();
        Rest {
            sessions: gateway.json(&["session", "ls"]).as_array().unwrap().len(),
            gauges: gauges(gateway.http_port),
            tasks: gateway.metric("sandgate_tasks"),
            processes: processes.trim().parse().unwrap(),
            gateway: Process::of(gateway.pid()),
            agent: Process::of(pid as u32),
        }
    }

    /// What is not as it was.
    pub fn compared_with(&self, before: &Rest) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |what: &str, now: u64, was: u64, slack: u64| {
            if now > was + slack {
                found.push(format!("{what}: {was} before, {now} after"));
            }
        };
        for (who, now, was, slack) in [
            ("gateway", self.gateway, before.gateway, GATEWAY_SLACK),
            ("agent", self.agent, before.agent, AGENT_SLACK),
        ] {
            check(&format!("descriptors of the {who}"), now.descriptors as u64, was.descriptors as u64, 0);
            check(
                &format!("threads of the {who}"),
                now.threads as u64,
                was.threads as u64,
                THREAD_SLACK as u64,
            );
            // A tenth more is what fragmentation does.
            check(&format!("memory of the {who}"), now.memory, was.memory, slack + was.memory / 10);
        }
        check("sessions", self.sessions as u64, 0, 0);
        check("tasks of the gateway", self.tasks, before.tasks, 0);
        check("processes in the sandbox", self.processes as u64, before.processes as u64, 0);
        found.extend(self.gauges.iter().map(|gauge| format!("not zero at rest: {gauge}")));
        found
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |p: &Process| {
            format!(
                "{} descriptors, {} threads, {:.1} MiB",
                p.descriptors,
                p.threads,
                p.memory as f64 / 1048576.0
            )
        };
        write!(
            f,
            "gateway {}, {} tasks; agent {}; {} sessions, {} processes",
            one(&self.gateway),
            self.tasks,
            one(&self.agent),
            self.sessions,
            self.processes
        )
    }
}

/// The lines of gauges that say something is going on. Counters and times only grow.
fn gauges(http_port: u16) -> Vec<String> {
    use std::io::{Read as _, Write as _};
    let mut text = String::new();
    let fetched = std::net::TcpStream::connect(("127.0.0.1", http_port)).and_then(|mut stream| {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut text)
    });
    if fetched.is_err() {
        return vec!["/metrics cannot be read".to_owned()];
    }
    let gauge = |name: &str| text.contains(&format!("# TYPE {name} gauge"));
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, value)| gauge(name.split('{').next().unwrap_or(name)) && *value != "0")
        // Others are no sign of use.
        .filter(|(name, _)| name.contains("agent") || name.contains("forward") || name.contains("session"))
        .map(|(name, value)| format!("{name} {value}"))
        .collect()
}
