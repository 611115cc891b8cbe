//! Files over SFTP with the stock client: one large file, many small ones, long listings, and reads through `sshfs`. Beside sshd with
//! its `sftp-server`, on the same files: a directory of the host that the sandbox has mounted, in memory where there is room.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bulk::{CIPHERS, Cost, Direction, settle};
use crate::report::{Budget, Report};
use crate::side::Side;
use crate::sshfs;

/// Files of one directory of the many.
const PER_DIRECTORY: u32 = 100;
/// Entries of one directory of the listing.
const LISTED_AT_ONCE: u32 = 1000;
/// Bytes of a small file.
const SMALL: usize = 4096;

/// How much is measured.
pub struct Plan {
    /// Size of the large file, MiB.
    pub mib: u32,
    /// Small files.
    pub files: u32,
    /// Entries of the listing.
    pub entries: u32,
    /// Random reads through `sshfs`.
    pub random_reads: u32,
    /// Times that each is done on each side.
    pub rounds: u32,
}

/// The files on the host, for both sides.
#[derive(Debug)]
pub struct Ground(tempfile::TempDir);

impl Ground {
    /// An empty one, in memory where 8 GiB are left there.
    pub fn make() -> Result<Self> {
        const ROOM: u64 = 8 << 30;
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |it| it.f_bavail * it.f_frsize);
        let parent = if room >= ROOM { memory } else { Path::new("/tmp") };
        let dir = tempfile::Builder::new().prefix("sgbf-").tempdir_in(parent)?;
        open_for_all(dir.path())?;
        Ok(Self(dir))
    }

    /// Its path on the host; see [`Side::sees`].
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A directory of one side, for what it is sent.
    fn of(&self, side: &Side) -> Result<PathBuf> {
        let dir = self.path().join(&side.label);
        fs::create_dir_all(&dir)?;
        open_for_all(&dir)?;
        Ok(dir)
    }
}

fn open_for_all(dir: &Path) -> Result<()> {
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?)
}

/// Measures what of it is wanted and adds its lines.
pub fn lines(
    sides: &[Side; 2],
    ground: &Ground,
    plan: &Plan,
    wanted: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<()> {
    let part = |name: &str| wanted("sftp") || wanted(name);
    if part("sftp-large") {
        large(sides, ground, plan, report)?;
    }
    if part("sftp-small") {
        small(sides, ground, plan, report)?;
    }
    if part("sftp-list") {
        listing(sides, ground, plan, report)?;
    }
    if part("sshfs") {
        sshfs::lines(sides, ground.path(), plan, report)?;
    }
    if ["sftp-large", "sftp-small", "sftp-list"].into_iter().any(part) {
        report.note(format!(
            "SFTP: the stock `sftp`, a new connection each time, {} times each; both servers serve the same directory{}",
            plan.rounds,
            if ground.path().starts_with("/dev/shm") { ", which is in memory" } else { "" }
        ));
    }
    Ok(())
}

fn large(sides: &[Side; 2], ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let source = ground.path().join("large");
    let mib: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut file = fs::File::create(&source)?;
    for _ in 0..plan.mib {
        std::io::Write::write_all(&mut file, &mib)?;
    }
    for cipher in CIPHERS {
        for direction in [Direction::Download, Direction::Upload] {
            let costs = alternate(sides, plan, |side| {
                let copy = ground.of(side)?.join("large");
                let batch = moving(side, direction, "", &source, &copy);
                // What came before is gone, and the time to remove it is nobody's.
                let _ = fs::remove_file(&copy);
                let took = sftp(side, &["-c", cipher], &batch)?;
                if copy.metadata()?.len() != u64::from(plan.mib) << 20 {
                    bail!("{}: the file was not moved in full", side.label);
                }
                fs::remove_file(&copy)?;
                Ok((took, f64::from(plan.mib)))
            })?;
            let cipher = cipher.trim_end_matches("@openssh.com");
            let what = format!("sftp, one file of {} MiB, {} {cipher}", plan.mib, direction.name());
            two_lines(report, &what, &costs, "MiB/s", Budget::AtLeast(1.3));
        }
    }
    Ok(fs::remove_file(&source)?)
}

fn small(sides: &[Side; 2], ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let source = ground.path().join("small");
    fill(&source, plan.files, PER_DIRECTORY, &[b'x'; SMALL])?;
    for direction in [Direction::Download, Direction::Upload] {
        let costs = alternate(sides, plan, |side| {
            let copy = ground.of(side)?.join("small");
            let batch = moving(side, direction, "-r ", &source, &copy);
            let took = sftp(side, &[], &batch)?;
            let last = format!("d{}/f{}", (plan.files - 1) / PER_DIRECTORY, plan.files - 1);
            if copy.join(&last).metadata()?.len() != SMALL as u64 {
                bail!("{}: not all files were moved", side.label);
            }
            fs::remove_dir_all(&copy)?;
            Ok((took, f64::from(plan.files)))
        })?;
        let what = format!("sftp -r, {} files of 4 KiB, {}", plan.files, direction.name());
        two_lines(report, &what, &costs, "files/s", Budget::AtLeast(1.0));
    }
    Ok(fs::remove_dir_all(&source)?)
}

fn listing(sides: &[Side; 2], ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let source = ground.path().join("listed");
    fill(&source, plan.entries, LISTED_AT_ONCE, b"")?;
    let costs = alternate(sides, plan, |side| {
        let mut batch = String::new();
        for dir in 0..plan.entries.div_ceil(LISTED_AT_ONCE) {
            let _ = writeln!(batch, "ls -l {}/d{dir}", side.sees(&source).display());
        }
        Ok((sftp(side, &[], &batch)?, f64::from(plan.entries)))
    })?;
    let what = format!("sftp, `ls -l` of {} entries", plan.entries);
    two_lines(report, &what, &costs, "entries/s", Budget::None);
    report.note(format!(
        "`ls -lR`: the stock client has no -R, so it is one `ls -l` for each directory of {LISTED_AT_ONCE} entries in one session; its own \
         sorting and formatting is part of both figures"
    ));
    Ok(fs::remove_dir_all(&source)?)
}

/// The line of the rate, and one of the CPU seconds that all of it took, which has no budget of its own.
pub fn two_lines(report: &mut Report, what: &str, costs: &[Cost; 2], unit: &str, budget: Budget) {
    let [ours, theirs] = costs;
    report.ratio(what, [&ours.rate, &theirs.rate], unit, 0, budget);
    report.ratio(&format!("{what}: server CPU"), [&ours.cpu, &theirs.cpu], "s", 2, Budget::None);
}

/// Does something on each side in turn. It gives the time it took, and how much it was.
pub fn alternate(
    sides: &[Side; 2],
    plan: &Plan,
    mut work: impl FnMut(&Side) -> Result<(Duration, f64)>,
) -> Result<[Cost; 2]> {
    let mut costs = [Cost::default(), Cost::default()];
    for _ in 0..plan.rounds {
        for (side, cost) in sides.iter().zip(&mut costs) {
            let before = side.account.cpu_seconds()?;
            let (took, amount) = work(side)?;
            settle(side)?;
            cost.cpu.push(side.account.cpu_seconds()? - before);
            cost.rate.push(amount / took.as_secs_f64());
        }
    }
    Ok(costs)
}

/// The `sftp` command that copies one path to another, one of them as the server sees it.
fn moving(side: &Side, direction: Direction, options: &str, from: &Path, to: &Path) -> String {
    match direction {
        Direction::Download => format!("get {options}{} {}\n", side.sees(from).display(), to.display()),
        Direction::Upload => format!("put {options}{} {}\n", from.display(), side.sees(to).display()),
    }
}

/// Makes `count` files `dN/fM`.
fn fill(root: &Path, count: u32, per_directory: u32, content: &[u8]) -> Result<()> {
    for number in 0..count {
        let dir = root.join(format!("d{}", number / per_directory));
        if number % per_directory == 0 {
            fs::create_dir_all(&dir)?;
        }
        fs::write(dir.join(format!("f{number}")), content)?;
    }
    Ok(())
}

/// Runs `sftp` commands; gives the time from its start to its exit.
fn sftp(side: &Side, options: &[&str], batch: &str) -> Result<Duration> {
    let mut command = side.client("sftp", "-P");
    command.args(options).args(["-b", "-"]).arg(side.destination());
    let began = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("starting sftp")?;
    let mut stdin = child.stdin.take().context("sftp has no stdin")?;
    std::io::Write::write_all(&mut stdin, batch.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    let took = began.elapsed();
    if !status.success() {
        bail!("{}: sftp ended with {status} at: {}", side.label, batch.lines().next().unwrap_or_default());
    }
    Ok(took)
}
