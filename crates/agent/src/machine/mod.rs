//! The agent as the init of a virtual machine.
//!
//! The host gives us a kernel and an initramfs that holds this program as `/init` and the modules that the kernel lacks. From there to an
//! ordinary agent: load the modules, find the disks, put the root file system together, move into it, and execute ourselves anew with
//! the image's environment. At the end the machine is switched off.
//!
//! A machine that is to become a template of others stops before it looks for a disk. Its copies find their disks in slots
//! that were empty until then (see `slots`).

mod config;
mod disks;
mod root;
mod slots;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::fs::sync;
use rustix::system::{RebootCommand, reboot, sethostname};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::sys;
use config::Config;

/// The vsock port that the host connects to.
const PORT: u32 = 1024;
/// What the first process of a machine is called.
const INIT: &str = "/init";
/// On the kernel's command line: what to do.
const MARK: &str = "sandgate.machine=";
/// Where the modules are, named so that their order is the one to load them in.
const MODULES: &str = "/modules";
/// The host waits for this line before it makes a template.
const WAITING: &str = "sandgate: waiting for disks";
/// How a line begins that says when a step was reached; `bench/src/boot.rs` reads them.
const TIMES: &str = "sandgate: times since the kernel's start:";
/// Between the reason for a failure and the end, so that the console's last bytes reach the host.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A step that failed, with what it was.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For `map_err`: what was being done.
fn doing<E: fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Failed {
    let what = what.into();
    move |error| Failed(format!("cannot {what}: {error}"))
}

/// Whether this process is the first of a virtual machine that has to be put together yet.
pub fn is_booting(words: &[OsString]) -> bool {
    std::process::id() == 1 && words.first().is_some_and(|name| name == INIT) && Path::new(MODULES).is_dir()
}

/// Becomes the agent of the machine. Returns only when that did not work, after saying why on the console.
pub fn boot() -> ExitCode {
    let Err(failed) = prepare();
    println!("sandgate: {failed}");
    std::thread::sleep(LAST_WORDS);
    let _ = reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

/// Says when the agent was ready for who connects.
pub fn is_ready() {
    println!("{TIMES} agent={}", uptime());
}

/// Switches the machine off, after the agent has ended its sessions.
pub fn power_off(result: &io::Result<()>) {
    if let Err(error) = result {
        println!("sandgate: the agent failed: {error}");
    }
    sync();
    root::let_go();
    let _ = reboot(RebootCommand::PowerOff);
}

/// Sets the clock, to seconds since 1970 and nanoseconds.
pub fn set_clock(seconds: u64, nanos: u32) -> io::Result<()> {
    let tv_sec = i64::try_from(seconds).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: nanos.into() })?)
}

enum Never {}

fn prepare() -> Result<Never, Failed> {
    let began = uptime();
    root::mount_kernel_files()?;
    let line = fs::read_to_string("/proc/cmdline").map_err(doing("read the command line"))?;
    let mode = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(MARK)).unwrap_or_default();
    load_modules()?;
    let loaded = uptime();
    if mode == "probe" {
        return Err(Failed("the probe has booted".into()));
    }
    if mode == "template" {
        println!("{WAITING}");
        slots::wait_for_disks()?;
        // Whatever was in the console's device when the memory was saved, it takes no more.
        sys::neutralize_std_fd(0);
        sys::neutralize_std_fd(1);
        sys::neutralize_std_fd(2);
    }
    let disks = disks::find()?;
    let config = Config::read(&disks)?;
    // Before anything draws a number: a copy has the state of its template.
    sys::reseed(&config.seed).map_err(doing("mix in fresh randomness"))?;
    if let Some((seconds, nanos)) = config.clock {
        set_clock(seconds, nanos).map_err(doing("set the clock"))?;
    }
    sethostname(&config.hostname).map_err(doing("set the host name"))?;
    root::enter(&config, &disks)?;
    if let Some(id) = &config.machine_id {
        // An image without /etc has nobody to ask for it.
        let _ = fs::write("/etc/machine-id", [id, &b"\n"[..]].concat());
    }
    println!("{TIMES} init={began} modules={loaded} root={}", uptime());
    let env =
        config.env.into_iter().map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)));
    let error = Command::new("/proc/self/exe")
        .arg0("sandgate-agent")
        .args(["--listen", &format!("vsock:{PORT}"), "--machine"])
        .env_clear()
        .envs(env)
        .exec();
    Err(doing("start the agent")(error))
}

fn load_modules() -> Result<(), Failed> {
    let mut files: Vec<_> = fs::read_dir(MODULES)
        .map_err(doing("list the modules"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    for path in files {
        let file = fs::File::open(&path).map_err(doing("open a module"))?;
        rustix::system::finit_module(&file, c"", 0).map_err(doing(format!("load {}", path.display())))?;
        // It is in the kernel now; the file only takes up memory.
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// Seconds since the start of the kernel.
fn uptime() -> String {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    format!("{tv_sec}.{:03}", tv_nsec / 1_000_000)
}
