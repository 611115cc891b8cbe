//! What tests of the driver `qemu` need: programs and a kernel of the host, and looks at the processes of a machine.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Pid;

use crate::client::DEADLINE;
use crate::process::{Feed, Guard, run};
use crate::{Options, Output, Target, paths, rootfs, skip};

/// From the last words of `hostile/takeover.py` until its program listens, under emulation.
const TAKING: Duration = Duration::from_millis(1500);

/// What the clocks of a machine and of the host may differ by, in seconds: how long the message that sets one may be under way.
const CLOCK: f64 = 1.0;

/// The kernel, and the two programs.
pub struct Needs {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `vhost-device-vsock`.
    pub vsock: PathBuf,
}

impl Needs {
    /// Looks for them.
    ///
    /// # Errors
    /// What is missing.
    pub fn look() -> Result<Self, String> {
        for program in ["mkfs.erofs", "mke2fs", "busybox"] {
            if paths::which(program).is_none() {
                return Err(format!("{program} is not installed"));
            }
        }
        let qemu = paths::which("qemu-system-x86_64").ok_or("qemu-system-x86_64 is not installed")?;
        let built = paths::target_dir().join("tools/bin/vhost-device-vsock");
        let vsock = Some(built).filter(|it| it.exists()).or_else(|| paths::which("vhost-device-vsock"));
        let vsock = vsock.ok_or("vhost-device-vsock is not installed")?;
        let kernel = kernel().ok_or("there is no kernel for machines in target/kernel or /boot")?;
        Ok(Self { kernel, qemu, vsock })
    }

    /// `None`, after noting the skip, where something is missing.
    pub fn find() -> Option<Self> {
        if skip::oracle_lacks("machines") {
            return None;
        }
        Self::look().map_err(|reason| skip::because(&reason)).ok()
    }

    /// The table `[qemu]` of a configuration, with `more` in it.
    pub fn toml(&self, more: &str) -> String {
        let mut toml = format!("[qemu]\nkernel = {:?}\nvhost_device_vsock = {:?}\n", self.kernel, self.vsock);
        let _ = writeln!(toml, "{more}");
        toml
    }

    /// A gateway whose sandbox `box` is a machine of the image of all drivers ([`rootfs::image`]), logged in to as root.
    pub fn start(&self) -> Target {
        Target::start_with(&Options {
            extra_toml: self.toml(""),
            create_args: words(&rootfs::image().display().to_string()),
            ..Options::default()
        })
    }
}

/// Words for `sandbox create` that make a small machine of this image.
pub fn words(image: &str) -> Vec<String> {
    ["--driver", "qemu", "--memory", "256M", "--disk", "3G", "--image", image].map(str::to_owned).to_vec()
}

/// The newest of those that `tests/setup.sh` has unpacked, or of the host's.
fn kernel() -> Option<PathBuf> {
    [paths::target_dir().join("kernel/boot"), PathBuf::from("/boot")].iter().find_map(|dir| {
        let files = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
        files
            .filter(|file| file.to_string_lossy().contains("/vmlinuz-"))
            .filter(|file| file.to_string_lossy().contains("cloud"))
            .max()
            .and_then(|file| file.canonicalize().ok())
    })
}

/// The state of a sandbox, as `sandbox inspect` has it.
#[track_caller]
pub fn state(target: &Target, name: &str) -> String {
    let inspect = target.gateway().json(&["sandbox", "inspect", name]);
    inspect["state"].as_str().unwrap_or_default().to_owned()
}

/// The id of a sandbox.
#[track_caller]
pub fn id(target: &Target, name: &str) -> String {
    let inspect = target.gateway().json(&["sandbox", "inspect", name]);
    inspect["id"].as_str().expect("a sandbox has an id").to_owned()
}

/// The process of a machine's QEMU.
///
/// # Panics
/// When it does not run.
#[track_caller]
pub fn qemu_pid(target: &Target, name: &str) -> Pid {
    let pid =
        target.gateway().json(&["sandbox", "inspect", name])["pid"].as_i64().expect("a machine has a pid");
    Pid::from_raw(pid as i32).expect("a machine has a pid")
}

/// The command lines that contain all of `parts`, with the processes. A search for the word (`find`, the tests' own shells) is left out.
///
/// # Panics
/// Where there is no /proc.
pub fn processes(parts: &[&str]) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if parts.iter().all(|part| line.contains(part)) && !line.starts_with("find ") {
            found.push((pid, line));
        }
    }
    found
}

/// The processes of a sandbox: its shim, and those in its control groups (the vsock device does not name it on its command line).
///
/// # Panics
/// Where there is no /proc.
pub fn processes_of(id: &str) -> Vec<(Pid, String)> {
    let mut all = processes(&[]);
    all.retain(|(pid, line)| {
        let groups = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        line.contains(id) || std::fs::read_to_string(groups).is_ok_and(|text| text.contains(id))
    });
    all
}

/// What the host holds for some sandboxes. Two looks can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Command lines of their processes.
    pub processes: Vec<String>,
    /// Mounts below the data directory, in the gateway's namespace.
    pub mounts: usize,
    /// Unix sockets that are bound in directories of sandboxes.
    pub sockets: usize,
    /// Files of Unix sockets in these directories, whether anybody has them open or not.
    pub socket_files: Vec<String>,
    /// Their control groups.
    pub groups: Vec<String>,
    /// Directories of sandboxes.
    pub directories: usize,
    /// Children of the gateway, living or not reaped.
    pub children: usize,
}

impl Holdings {
    /// Looks. `ids` are those of sandboxes that are there or were.
    pub fn of(target: &Target, ids: &[String]) -> Self {
        let data = target.gateway().data_dir().display().to_string();
        let pid = target.pid();
        let count = |file: &str, word: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.lines().filter(|line| line.contains(word)).count()
        };
        let find = "find /sys/fs/cgroup -type d -name '*sb-*' 2>/dev/null; true";
        let groups = run(Command::new("sh").args(["-c", find]), Feed::Null, DEADLINE).text();
        let find = format!("find {data}/sandboxes -type s 2>/dev/null | sort; true");
        let sockets = run(Command::new("sh").args(["-c", &find]), Feed::Null, DEADLINE).text();
        let ours = |line: &&str| ids.iter().any(|id| line.contains(id));
        let children = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        Self {
            processes: ids.iter().flat_map(|id| processes_of(id)).map(|(_, line)| line).collect(),
            mounts: count(&format!("/proc/{pid}/mountinfo"), &data),
            sockets: count("/proc/net/unix", &format!("{data}/sandboxes/")),
            socket_files: sockets.lines().map(str::to_owned).collect(),
            groups: groups.lines().filter(ours).map(str::to_owned).collect(),
            directories: std::fs::read_dir(format!("{data}/sandboxes")).map_or(0, Iterator::count),
            children: children.map(|text| text.split_whitespace().count()).sum(),
        }
    }
}

/// Makes the machine `name` and puts `hostile/agent.py` in that mode in the place of its agent. Returns a token for it.
///
/// # Panics
/// When it does not come to that.
pub fn hostile(target: &Target, name: &str, mode: &str) -> String {
    let gateway = target.gateway();
    let create = words(&rootfs::image().display().to_string());
    gateway.create_sandbox(name, &create.iter().map(String::as_str).collect::<Vec<_>>());
    let token = gateway.token(name, &[]).token;
    let hostile = |file: &str| paths::workspace().join("tests/hostile").join(file).display().to_string();
    let user = format!("User={token}");
    let mut scp: Vec<String> = vec!["-o".into(), user, hostile("takeover.py"), hostile("agent.py")];
    // The image's Python has no library for calls into C.
    let find = "ldconfig -p | sed -n 's/.*libffi.so.8 .*=> //p' | head -n 1";
    scp.push(
        run(
            Command::new("sh").args(["-c", find]).env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin"),
            Feed::Null,
            DEADLINE,
        )
        .ok(),
    );
    scp.push("box:/tmp/".into());
    target.scp(&scp.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    let take = format!(
        "cd /tmp; HOSTILE={mode} LD_LIBRARY_PATH=/tmp exec setsid -w python3 takeover.py python3 agent.py"
    );
    let mut ssh = target.ssh(&["-l", &token, "box", &take]);
    let mut session = Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(session.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "taking", "the agent's place was not taken");
    // A failure would end the session: the agent goes on when who has stopped it is gone.
    assert_eq!(session.wait(TAKING), None, "the agent's place was not taken");
    token
}

/// The control: what speaks there is the program that was put into the agent's place. The session is not waited for: that program
/// does not end because nobody reads it.
///
/// # Panics
/// When it is somebody else.
#[track_caller]
pub fn it_speaks(target: &Target, token: &str) {
    let mut ssh = target.ssh(&["-l", token, "box", "anything"]);
    let mut ssh = Guard::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut said = vec![0; 100_000];
    let mut out = ssh.child().stdout.take().unwrap();
    // A client that never gets so much is ended with the test.
    out.read_exact(&mut said).expect("the hostile program does not speak");
    assert!(said.iter().all(|&byte| byte == b'x'), "it is not the hostile program that speaks");
}

/// Expects that the clock of a machine, in which `exec` runs a command, shows the host's time.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn expect_host_time(exec: impl Fn(&str) -> Output) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let text = exec("date +%s.%N").ok();
    let after = now();
    // Busybox tells whole seconds alone.
    let (text, cut) = text.strip_suffix(".%N").map_or((text.as_str(), 0.0), |whole| (whole, 1.0));
    let inside: f64 = text.parse().unwrap();
    assert!(
        (before - CLOCK - cut..after + CLOCK).contains(&inside),
        "inside it is {inside}, outside it was {before} to {after}"
    );
}
