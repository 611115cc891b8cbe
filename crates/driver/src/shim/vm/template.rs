//! A machine that has booted and waits for its disks, saved once and copied for each start.
//!
//! It is saved without any disk and without vsock: QEMU cannot save a machine with a vhost-user device, and has no need to. A copy gets its disks
//! in slots that were empty, and its vsock device on a bus that was; its init looks for them (`crates/agent/src/machine/slots.rs`).
//! Nothing but our kernel and our init has run in it, so it holds nothing of anybody's.

use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::super::message::{Failure, Report};
use super::boot::{self, Plan, Stage, Started};
use super::jail::Jail;
use crate::image::hex;
use crate::state::DataDir;
use crate::state::lock::OpLock;

/// Mixed into the names of templates; to be changed with what is saved.
const FORMAT: &str = "3";
/// How many templates are kept, each as large as what a kernel and an agent write into memory: kinds of machines that one host starts in turns.
const KEPT: usize = 8;
/// What the machine prints when it waits for its disks (`crates/agent/src/machine/mod.rs`).
const WAITING: &[u8] = b"sandgate: waiting for disks";
/// How long it may take until then, and another start waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the saving may take.
const SAVE_PATIENCE: Duration = Duration::from_secs(20);
/// Largest state of a machine without its memory, in bytes; it has some 50,000.
const MAX_STATE: u64 = 16 << 20;
/// Longest console output before it waits, in bytes.
const MAX_CONSOLE: usize = 64 << 10;
/// The file of the state; where it is, the template is whole.
const STATE: &str = "state";
/// The socket through which QEMU gives the state, in its directory.
const STATE_SOCKET: &str = "state";
/// Of a page, in bytes: what is all zero is left out.
const PAGE: usize = 4096;
/// Read at once, in bytes.
const PIECE: usize = 1 << 20;

/// A saved machine.
#[derive(Debug, Clone)]
pub(super) struct Template {
    home: PathBuf,
    /// Of those that have had and will have this name.
    version: Version,
}

/// Inode and time of change of a state.
type Version = (u64, i64, i64);

impl Template {
    /// `None` where it is missing or not whole.
    fn find(home: PathBuf) -> Option<Self> {
        let version = version(&home)?;
        Some(Self { home, version })
    }

    pub(super) fn memory(&self) -> PathBuf {
        self.home.join("memory")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.home.join(STATE)
    }

    /// Removes it, if no other has come into its place; the next start makes a new one.
    pub(super) fn discard(&self) {
        // Whoever has the lock makes a new one.
        if let Ok(Some(_lock)) = OpLock::acquire(&lock_of(&self.home), Duration::ZERO)
            && version(&self.home) == Some(self.version)
        {
            remove(&self.home);
        }
    }
}

fn version(home: &Path) -> Option<Version> {
    fs::metadata(home.join(STATE)).ok().map(|state| (state.ino(), state.ctime(), state.ctime_nsec()))
}

/// Taken to make a template or to remove it, and changed whenever it is used.
fn lock_of(home: &Path) -> PathBuf {
    home.with_extension("lock")
}

fn remove(home: &Path) {
    // First, so that nobody takes what is left for a whole one.
    let _ = fs::remove_file(home.join(STATE));
    let _ = fs::remove_dir_all(home);
}

/// The template for a plan, made where it is missing.
pub(super) fn prepare(
    data: &DataDir,
    plan: &Plan<'_>,
    jail: &Jail,
    qemu: &Path,
    report: &mut Report,
) -> Result<Template, Failure> {
    let home = data.machines().join(format!("{}.template", key(plan, qemu)?));
    if let Some(template) = Template::find(home.clone()) {
        // For whoever removes those that have not been used for longest.
        let _ = File::open(lock_of(&home)).and_then(|lock| lock.set_modified(SystemTime::now()));
        return Ok(template);
    }
    let lock = OpLock::acquire(&lock_of(&home), PATIENCE).map_err(Failure::io("lock the template"))?;
    let Some(_lock) = lock else {
        return Err(Failure::other("another machine has been making the template for too long"));
    };
    if let Some(template) = Template::find(home.clone()) {
        return Ok(template);
    }
    report.step("booting the kernel once, for this start and all later ones");
    let fresh = home.with_extension("new");
    let _ = fs::remove_dir_all(&fresh);
    let result = save(plan, jail, qemu, &fresh).and_then(|()| {
        let _ = fs::remove_dir_all(&home);
        fs::rename(&fresh, &home).map_err(Failure::io("put the template in its place"))
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    result?;
    prune(&data.machines(), &home);
    Template::find(home).ok_or_else(|| Failure::other("the template has gone again"))
}

/// Removes all templates but some that were used last, and what was left of interrupted attempts. `own` has just been made by the caller, who holds its lock.
fn prune(machines: &Path, own: &Path) {
    let used = |home: &Path| {
        let changed = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
        changed(&lock_of(home)).max(changed(home))
    };
    let Ok(entries) = fs::read_dir(machines) else { return };
    let others = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && path != own);
    let (mut templates, mut unused): (Vec<_>, Vec<_>) =
        others.partition(|path| path.extension().is_some_and(|it| it == "template"));
    unused.retain(|path| path.extension().is_some_and(|it| it == "new"));
    templates.sort_by_key(|home| std::cmp::Reverse(used(home)));
    unused.extend(templates.into_iter().skip(KEPT - 1));
    for home in unused {
        let lock = lock_of(&home);
        // Not while somebody makes it.
        if let Ok(Some(_lock)) = OpLock::acquire(&lock, Duration::ZERO) {
            remove(&home);
            if !home.with_extension("template").exists() {
                let _ = fs::remove_file(&lock);
            }
        }
    }
}

/// The same for machines that may be copies of the same one. The initramfs stands for the agent and the modules. With the kernel's path: what lies
/// there is opened again for the boot, so only those who name the same file rely on what was saved.
fn key(plan: &Plan<'_>, qemu: &Path) -> Result<String, Failure> {
    let text = format!(
        "{FORMAT} {} {} {} {} {} {} {}",
        boot::identity(qemu)?,
        plan.kernel.image.display(),
        plan.initramfs.display(),
        plan.accel,
        // As much of it as QEMU is told.
        plan.memory >> 20,
        plan.processors,
        boot::kernel_line(plan),
    );
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    Ok(hex(hash.as_ref().get(..16).unwrap_or_default()))
}

/// Boots, waits, saves into `home`.
fn save(plan: &Plan<'_>, jail: &Jail, qemu: &Path, home: &Path) -> Result<(), Failure> {
    let private = |path: &Path| {
        DirBuilder::new().mode(0o700).create(path).map_err(Failure::io("make the template's directory"))
    };
    private(home)?;
    let work = home.join("work");
    private(&work)?;
    chown(&work, jail.user, jail.user).map_err(Failure::io("give the template its directory"))?;
    let mut jail = jail.clone();
    jail.directory.clone_from(&work);
    let memory = work.join("memory");
    let plan = Plan {
        stage: Stage::Save { memory: memory.clone() },
        reads: Vec::new(),
        writes: Vec::new(),
        ..*plan
    };
    let mut started = boot::start(&plan, jail.clone(), qemu.to_owned())?;
    let result = save_running(&mut started, &work, &jail);
    let _ = started.child.kill();
    let _ = started.child.wait();
    let state = result?;
    compact(&memory, &home.join("memory")).map_err(Failure::io("save the memory"))?;
    fs::remove_dir_all(&work).map_err(Failure::io("remove what the template leaves"))?;
    // Last, since it says that the rest is there.
    let mut file = create(&home.join(STATE)).map_err(Failure::io("save the state"))?;
    file.write_all(&state).map_err(Failure::io("save the state"))
}

fn save_running(started: &mut Started, work: &Path, jail: &Jail) -> Result<Vec<u8>, Failure> {
    wait_for_line(&started.console)?;
    let qmp = &mut started.qmp;
    qmp.ask("stop", Value::Null)?;
    boot::share_memory(qmp)?;
    let socket = work.join(STATE_SOCKET);
    // The directory's path may be longer than an address.
    std::env::set_current_dir(work).map_err(Failure::io("enter the template's directory"))?;
    let listener = UnixListener::bind(STATE_SOCKET).map_err(Failure::io("listen for the state"));
    std::env::set_current_dir("/").map_err(Failure::io("leave the template's directory"))?;
    let listener = listener?;
    chown(&socket, jail.user, jail.user).map_err(Failure::io("give the socket away"))?;
    qmp.ask("migrate", json!({ "uri": format!("unix:{STATE_SOCKET}") }))?;
    if !readable(&listener, SAVE_PATIENCE) {
        return Err(Failure::other("QEMU does not give its state"));
    }
    let (stream, _) = listener.accept().map_err(Failure::io("take the state"))?;
    stream.set_read_timeout(Some(SAVE_PATIENCE)).map_err(Failure::io("take the state"))?;
    let mut state = Vec::new();
    stream.take(MAX_STATE).read_to_end(&mut state).map_err(Failure::io("take the state"))?;
    let answer = qmp.ask("query-migrate", Value::Null)?;
    match answer.get("status").and_then(Value::as_str) {
        Some("completed" | "active" | "device") if !state.is_empty() => Ok(state),
        other => {
            Err(Failure::other(format!("QEMU could not save the machine ({})", other.unwrap_or("no status"))))
        }
    }
}

fn wait_for_line(console: &OwnedFd) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    let mut chunk = [0u8; 4096];
    while !seen.windows(WAITING.len()).any(|window| window == WAITING) {
        let left = deadline.saturating_duration_since(Instant::now());
        let last = || String::from_utf8_lossy(&seen[seen.len().saturating_sub(400)..]).into_owned();
        if left.is_zero() || seen.len() > MAX_CONSOLE {
            return Err(Failure::other(format!("the template did not boot; it said: {}", last())));
        }
        if !readable(console, left) {
            continue;
        }
        match rustix::io::read(console, &mut chunk) {
            Ok(0) => return Err(Failure::other(format!("the template's QEMU ended; it said: {}", last()))),
            Ok(n) => seen.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::io("read the template's console")(error)),
        }
    }
    Ok(())
}

fn readable(fd: &impl std::os::fd::AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).ok();
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

fn create(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Copies a file without its holes and without pages that are all zero.
pub(super) fn compact(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::fs::{SeekFrom, seek};

    let (source, target) = (File::open(from)?, create(to)?);
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0u8; PIECE];
    let mut at = 0;
    while at < length {
        let data = match seek(&source, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(&source, SeekFrom::Hole(data))?;
        let mut offset = data;
        while offset < at {
            let n = buffer.len().min(usize::try_from(at - offset).unwrap_or(usize::MAX));
            let Some(piece) = buffer.get_mut(..n) else { break };
            source.read_exact_at(piece, offset)?;
            write_pages(&target, piece, offset)?;
            offset += n as u64;
        }
    }
    Ok(())
}

/// Writes runs of pages that hold something.
fn write_pages(target: &File, piece: &[u8], offset: u64) -> std::io::Result<()> {
    let zero = [0u8; PAGE];
    let mut begin = None;
    let mut at = 0;
    for page in piece.chunks(PAGE) {
        let empty = zero.get(..page.len()) == Some(page);
        if let (true, Some(first)) = (empty, begin) {
            target.write_all_at(piece.get(first..at).unwrap_or_default(), offset + first as u64)?;
        }
        begin = if empty { None } else { begin.or(Some(at)) };
        at += page.len();
    }
    match begin {
        Some(first) => target.write_all_at(piece.get(first..).unwrap_or_default(), offset + first as u64),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was used so many seconds ago.
    fn template(machines: &Path, name: &str, ago: u64) -> PathBuf {
        let home = machines.join(name).with_extension("template");
        fs::create_dir(&home).unwrap();
        fs::write(home.join(STATE), name).unwrap();
        let at = SystemTime::now() - Duration::from_secs(ago);
        fs::write(lock_of(&home), "").unwrap();
        for path in [lock_of(&home), home.clone()] {
            File::open(path).unwrap().set_modified(at).unwrap();
        }
        home
    }

    #[test]
    fn only_the_one_that_failed_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let home = template(dir.path(), "a", 0);
        let failed = Template::find(home.clone()).unwrap();
        // Another start has made it anew.
        fs::remove_file(home.join(STATE)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(home.join(STATE), "b").unwrap();
        failed.discard();
        let second = Template::find(home.clone()).unwrap();
        let making = OpLock::acquire(&lock_of(&home), Duration::ZERO).unwrap().unwrap();
        second.discard();
        assert!(home.exists(), "somebody has the lock");
        drop(making);
        second.discard();
        assert!(!home.exists());
    }

    #[test]
    fn the_templates_used_last_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let homes: Vec<_> = (0..12).map(|n| template(dir.path(), &format!("t{n}"), 1000 + 10 * n)).collect();
        // Made last, whatever its times say.
        let own = template(dir.path(), "own", 5000);
        let half = dir.path().join("half.new");
        fs::create_dir(&half).unwrap();
        fs::write(dir.path().join("x.initramfs"), "").unwrap();
        let busy = OpLock::acquire(&lock_of(&homes[11]), Duration::ZERO).unwrap().unwrap();
        prune(dir.path(), &own);
        for (n, home) in homes.iter().enumerate() {
            assert_eq!(home.exists(), n < KEPT - 1 || n == 11, "{}", home.display());
            assert_eq!(lock_of(home).exists(), home.exists(), "{}", home.display());
        }
        assert!(own.exists() && !half.exists() && dir.path().join("x.initramfs").exists());
        drop(busy);
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_leaves_out_what_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = vec![0u8; 3 * PIECE + 100];
        for at in [0, 5000, PIECE - 1, PIECE + 3 * PAGE, 3 * PIECE + 99] {
            bytes[at] = 7;
        }
        fs::write(&from, &bytes).unwrap();
        compact(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        use std::os::unix::fs::MetadataExt as _;
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < bytes.len() as u64 / 2);
    }
}
