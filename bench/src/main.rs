//! Measures the gateway beside Debian's sshd on the same machine, with the same client and cipher, in one run and in
//! turns, and writes `bench/RESULTS.md`. CPU seconds of all server processes are the figure to trust; wall time comes second.
//!
//! Environment: `BENCH_QUICK=1` for a short run (the report is then printed and not written), `BENCH_SELFTEST=1` to
//! measure sshd against sshd, which must give ratios of about 1, `BENCH_ONLY=bulk,connect,exec,echo,memory,start,forward,mux,boot,sftp` for
//! some parts (of `sftp` also `sftp-large,sftp-small,sftp-list,sshfs`), `SANDGATE=PATH` for the binary (default:
//! `target/release/sandgate`).
#![forbid(unsafe_code)]

mod account;
mod boot;
mod bulk;
mod docker;
mod echo;
mod files;
mod floor;
mod forward;
mod idle;
mod latency;
mod mux;
mod peer;
mod report;
mod side;
mod sshfs;
mod stats;
mod terminals;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bulk::{CIPHERS, Direction};
use echo::Load;
use forward::Peer;
use latency::Latency;
use report::{Budget, Report, cell, machine, version};
use side::{Kind, Side};
use stats::ratio;

/// How much is measured.
struct Plan {
    mib: u32,
    bulk_rounds: u32,
    connect_pairs: u32,
    exec_pairs: u32,
    keys: u32,
    sessions: u32,
    terminals: u32,
    starts: u32,
    boots: u32,
    files: files::Plan,
}

const FULL: Plan = Plan {
    mib: 1024,
    bulk_rounds: 5,
    connect_pairs: 80,
    exec_pairs: 200,
    keys: 1200,
    sessions: 150,
    terminals: 500,
    starts: 20,
    boots: 5,
    files: files::Plan { mib: 1024, files: 10_000, entries: 100_000, random_reads: 5000, rounds: 3 },
};
const QUICK: Plan = Plan {
    mib: 256,
    bulk_rounds: 1,
    connect_pairs: 10,
    exec_pairs: 20,
    keys: 200,
    sessions: 20,
    terminals: 20,
    starts: 5,
    boots: 2,
    files: files::Plan { mib: 256, files: 1000, entries: 10_000, random_reads: 1000, rounds: 1 },
};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &args[..]
        && first == "peer"
    {
        return peer::run(rest);
    }
    let flag = |name: &str| std::env::var_os(name).is_some_and(|v| v != "0" && !v.is_empty());
    let (quick, selftest) = (flag("BENCH_QUICK"), flag("BENCH_SELFTEST"));
    let plan = if quick { QUICK } else { FULL };
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|p| p == part);

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace root")?;
    let binary =
        std::env::var_os("SANDGATE").map_or_else(|| root.join("target/release/sandgate"), PathBuf::from);
    if !selftest && !binary.exists() {
        bail!("{} is missing: run `make build` first", binary.display());
    }
    let work = tempfile::Builder::new().prefix("sgb-").tempdir_in("/tmp")?;
    let ground = files::Ground::make()?;
    let first = if selftest { Kind::Sshd } else { Kind::Sandgate };
    let mut sides = [
        Side::prepare(
            if selftest { "sshd-a" } else { "sandgate" },
            first,
            work.path(),
            ground.path(),
            &binary,
        )?,
        Side::prepare("sshd", Kind::Sshd, work.path(), ground.path(), &binary)?,
    ];
    for side in &mut sides {
        side.start()?;
        side.provision()?;
    }
    let mut report = run(&mut sides, &ground, &plan, &wanted)?;
    if wanted("mux") && !selftest {
        mux::lines(work.path(), &binary, plan.mib, plan.bulk_rounds, plan.keys, &mut report)?;
    }
    if wanted("boot") && !selftest {
        boot::lines(root, work.path(), &binary, plan.boots, &mut report)?;
    }
    for side in &mut sides {
        side.shut_down();
    }

    let heading = format!(
        "Made by `make bench`; do not edit.\n\n* machine: {}\n* server: {}; {}\n* client: {}; curve25519-sha256, ed25519 keys, \
         both servers on loopback, in turns within one run\n* CPU seconds: {}; they include the command that the session runs \
         (`dd`, `cat`), on both sides",
        machine(),
        if selftest {
            "sshd (self-test)".to_owned()
        } else {
            version(&binary.display().to_string(), "--version")
        },
        version("/usr/sbin/sshd", "-V"),
        version("ssh", "-V"),
        sides[0].account.method().describe(),
    );
    let text = report.render(&heading);
    if quick || selftest || !only.is_empty() {
        println!("\n{text}");
    } else {
        let path = root.join("bench/RESULTS.md");
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("written: bench/RESULTS.md");
    }
    Ok(())
}

fn run(
    sides: &mut [Side; 2],
    ground: &files::Ground,
    plan: &Plan,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Report> {
    let mut report = Report::default();
    let peer = Peer::install(ground.path())?;
    if wanted("bulk") {
        bulk_lines(sides, plan, &mut report)?;
    }
    if wanted("connect") {
        let costs = latency::new_connections(sides, plan.connect_pairs)?;
        command_lines("`ssh host true`, new connection each", &costs, Budget::AtMost(0.6), &mut report);
    }
    if wanted("exec") {
        let costs = latency::multiplexed(sides, plan.exec_pairs)?;
        command_lines("`true` over one ControlMaster connection", &costs, Budget::AtMost(1.0), &mut report);
    }
    if wanted("echo") {
        echo_lines(sides, &peer, plan, &mut report)?;
    }
    if wanted("forward") {
        forward::lines(sides, &peer, plan.mib, plan.bulk_rounds, &mut report)?;
    }
    if wanted("memory") {
        memory_lines(sides, plan, &mut report)?;
        if sides[0].kind == Kind::Sandgate {
            let each = terminals::memory(&sides[0], plan.terminals)?;
            report.figure(
                "memory per terminal for a browser, 80 × 24, gateway side",
                format!("{each:.0} KiB"),
                "none".to_owned(),
                (each, " KiB"),
                Budget::None,
            );
            report.note(format!(
                "terminals for browsers: {} at once in one sandbox, each with its shell and a page that is attached",
                plan.terminals
            ));
        }
    }
    files::lines(sides, ground, &plan.files, wanted, &mut report)?;
    if wanted("start") {
        let [ours, theirs] = idle::start_times(sides, plan.starts)?;
        report.figure(
            "start to accepting connections (data directory exists)",
            cell(&ours, "ms", 1),
            cell(&theirs, "ms", 1),
            (ours.median(), " ms"),
            Budget::AtMost(50.0),
        );
    }
    Ok(report)
}

fn bulk_lines(sides: &[Side; 2], plan: &Plan, report: &mut Report) -> Result<()> {
    for cipher in CIPHERS {
        for direction in [Direction::Download, Direction::Upload] {
            let [ours, theirs] = bulk::measure(sides, cipher, direction, plan.mib, plan.bulk_rounds)?;
            let short = cipher.trim_end_matches("@openssh.com");
            report.ratio(
                &format!("{} {short}: server CPU per GiB", direction.name()),
                [&ours.cpu, &theirs.cpu],
                "s",
                2,
                Budget::AtMost(0.5),
            );
            report.ratio(
                &format!("{} {short}: wall throughput", direction.name()),
                [&ours.rate, &theirs.rate],
                "MiB/s",
                0,
                Budget::AtLeast(1.3),
            );
        }
    }
    report.note(format!(
        "bulk: `ssh -c CIPHER host 'dd if=/dev/zero bs=1M count={0} status=none' >/dev/null` and `dd … | ssh -c CIPHER host 'cat >/dev/null'`, {1} times each",
        plan.mib, plan.bulk_rounds
    ));
    Ok(())
}

/// The time of a short command, with its budget, and its CPU.
fn command_lines(what: &str, costs: &[Latency; 2], budget: Budget, report: &mut Report) {
    let [ours, theirs] = costs;
    report.ratio(what, [&ours.wall, &theirs.wall], "ms", 1, budget);
    report.ratio(&format!("{what}: server CPU for each"), [&ours.cpu, &theirs.cpu], "ms", 2, Budget::None);
}

fn echo_lines(sides: &[Side; 2], peer: &Peer, plan: &Plan, report: &mut Report) -> Result<()> {
    let [ours_quiet, theirs_quiet] = echo::measure(sides, Load::Idle, plan.keys)?;
    let (ours_idle, theirs_idle) = (&ours_quiet.echo, &theirs_quiet.echo);
    let [ours_busy, theirs_busy] = echo::measure(sides, Load::Yes, plan.keys)?.map(|cost| cost.echo);
    let [ours_stalled, theirs_stalled] =
        echo::measure(sides, Load::StalledForward(peer), plan.keys)?.map(|cost| cost.echo);
    let reference = theirs_idle.percentile(99.0);
    let show = |s: &stats::Series| {
        format!("p50 {:.0} µs, p99 {:.0} µs (n={})", s.median(), s.percentile(99.0), s.len())
    };
    for (what, ours, theirs) in [
        ("key press to echo, idle: p99", ours_idle, theirs_idle),
        (
            "key press to echo, `yes` in another channel: p99, against sshd's idle p99",
            &ours_busy,
            &theirs_busy,
        ),
        (
            "key press to echo, a forward in another channel that nobody reads: p99, against sshd's idle p99",
            &ours_stalled,
            &theirs_stalled,
        ),
    ] {
        report.figure(
            what,
            show(ours),
            show(theirs),
            (ratio(ours.percentile(99.0), reference), " ×"),
            Budget::AtMost(1.2),
        );
    }
    report.ratio(
        "key press to echo, idle: server CPU for each key",
        [&ours_quiet.cpu, &theirs_quiet.cpu],
        "µs",
        0,
        Budget::None,
    );
    report.note(format!(
        "echo: one byte into `ssh -tt host 'stty -icanon echo; exec cat >/dev/null'`, time to its echo, {} ms between keys; under load the \
         session and `yes` share a ControlMaster, so the client's own work on the flood is part of both servers' figures. Beside \
         sshd under the same load the p99 ratio is {:.2}",
        4,
        ratio(ours_busy.percentile(99.0), theirs_busy.percentile(99.0))
    ));
    Ok(())
}

fn memory_lines(sides: &[Side; 2], plan: &Plan, report: &mut Report) -> Result<()> {
    let ours = idle::memory(&sides[0], plan.sessions)?;
    let theirs = idle::memory(&sides[1], plan.sessions)?;
    let kib = |v: f64| format!("{v:.0} KiB");
    report.figure(
        "memory per idle session with a shell, gateway side",
        kib(ours.server),
        kib(theirs.server),
        (ours.server, " KiB"),
        Budget::AtMost(64.0),
    );
    report.figure(
        "memory per idle session with a shell, agent side",
        kib(ours.agent),
        "none".to_owned(),
        (ours.agent, " KiB"),
        Budget::AtMost(64.0),
    );
    report.note(format!(
        "memory: growth of the proportional set size (PSS) over {} sessions `ssh -tt host`, after ten that came and went; the user's \
         shell itself ({:.0} KiB and {:.0} KiB) is not counted",
        plan.sessions, ours.shell, theirs.shell
    ));
    Ok(())
}
