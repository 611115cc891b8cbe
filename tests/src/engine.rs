//! A container engine of a test's own: Debian's dockerd, or Podman's service, with its images, containers and socket in a temporary directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Feed, Guard, Output, run, try_run};
use crate::wait::until;
use crate::{paths, skip};

/// Time for one command of the engine's command line on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time for an engine to listen.
const START: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `dockerd` with a `containerd` of its own.
    Docker,
    /// `podman system service`.
    Podman,
}

/// A running engine. Containers and daemon end with it.
pub struct Engine {
    kind: Kind,
    process: Option<Guard>,
    dir: tempfile::TempDir,
}

/// A tree with busybox, root, and a user `me` (uid 1000). It needs no packages but `busybox-static`.
const BUSYBOX_TREE: &str = r#"
    set -e
    mkdir -p bin etc tmp home/me root dev proc sys var/www
    chmod 1777 tmp
    cp /bin/busybox bin/busybox
    for name in $(bin/busybox --list); do [ $name = busybox ] || ln -s busybox bin/$name; done
    printf 'root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000:me:/home/me:/bin/sh\n' > etc/passwd
    printf 'root:x:0:\nme:x:1000:\n' > etc/group
    echo hello > var/www/index.html
    chown 1000:1000 home/me
"#;

impl Engine {
    /// Starts one, with the images `bb` (busybox), `bbme` (the same as user `me`) and `empty` (nothing at all). `None`, after noting the skip,
    /// where this machine cannot.
    pub fn start(kind: Kind) -> Option<Self> {
        let program = match kind {
            Kind::Docker => "dockerd",
            Kind::Podman => "podman",
        };
        if !rustix::process::geteuid().is_root() {
            skip::because("only root can start a container engine");
            return None;
        }
        for needed in [program, "docker", "busybox"] {
            if paths::which(needed).is_none() {
                skip::because(&format!("{needed} is not installed"));
                return None;
            }
        }
        let mut engine = Self { kind, process: None, dir: crate::target::short_dir() };
        if !engine.start_again() {
            skip::because(&format!("{program} does not start here: {}", engine.log()));
            return None;
        }
        engine.import();
        Some(engine)
    }

    /// Starts the daemon, after [`Engine::kill`] over the same containers.
    pub fn start_again(&mut self) -> bool {
        // On a busy machine dockerd gives up on its containerd after 15 s, and finds it the next time.
        for _ in 0..ATTEMPTS {
            let mut process = self.spawn();
            let up = until(START, || self.answers() || process.wait(Duration::ZERO).is_some());
            self.process = Some(process);
            if up && self.answers() {
                return true;
            }
        }
        false
    }

    fn spawn(&self) -> Guard {
        let dir = self.dir.path();
        let at = |name: &str| dir.join(name).display().to_string();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = match self.kind {
            Kind::Docker => {
                let mut command = Command::new("dockerd");
                command.args([
                    "--data-root",
                    &at("data"),
                    "--exec-root",
                    &at("exec"),
                    "--pidfile",
                    &at("pid"),
                ]);
                command.args([
                    "-H",
                    &format!("unix://{}", at("s")),
                    "--bridge=none",
                    "--iptables=false",
                    "--ip-masq=false",
                ]);
                if let Some(runsc) = paths::which("runsc") {
                    // On newer kernels it takes a container's network namespace for the host's and refuses to run. No container here has a network.
                    let config = serde_json::json!({
                        "runtimes": {"runsc": {"path": runsc, "runtimeArgs": ["--network=none"]}},
                    });
                    std::fs::write(dir.join("daemon.json"), config.to_string()).unwrap();
                    command.args(["--config-file", &at("daemon.json")]);
                }
                command
            }
            Kind::Podman => {
                // Limits above the own would be refused; Podman 4.3 swaps soft and hard ones. Not every machine has a journal.
                let config = "[containers]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n\
                              [engine]\nruntime=\"runc\"\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
                std::fs::write(dir.join("containers.conf"), config).unwrap();
                let mut command = Command::new("podman");
                command.env("CONTAINERS_CONF", dir.join("containers.conf"));
                command.args(["--root", &at("root"), "--runroot", &at("run"), "--tmpdir", &at("tmp")]);
                command.args(["system", "service", "--time=0", &format!("unix://{}", at("s"))]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Guard::spawn(&mut command)
    }

    fn answers(&self) -> bool {
        matches!(try_run(&mut self.command(&["version"]), Feed::Null, Duration::from_secs(10)), Ok(output) if output.code == 0)
    }

    fn import(&self) {
        let script = format!(
            "mkdir tree nothing && (cd tree && {BUSYBOX_TREE}) && tar -C tree -cf bb.tar . && tar -C nothing -cf empty.tar . && rm -r tree"
        );
        run(Command::new("sh").args(["-ec", &script]).current_dir(self.dir.path()), Feed::Null, DEADLINE)
            .ok();
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        self.cli(&["import", &file("bb.tar"), "bb"]).ok();
        self.cli(&["import", "--change", "USER me", &file("bb.tar"), "bbme"]).ok();
        self.cli(&["import", &file("empty.tar"), "empty"]).ok();
    }

    /// Makes an image of a directory.
    pub fn import_dir(&self, dir: &Path, name: &str) {
        let tar = self.dir.path().join("dir.tar");
        let mut pack = Command::new("tar");
        run(pack.arg("-C").arg(dir).arg("-cf").arg(&tar).arg("."), Feed::Null, DEADLINE).ok();
        self.cli(&["import", &tar.display().to_string(), name]).ok();
    }

    /// Kills the daemon and nothing else: what it runs lives on.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait(Duration::from_secs(10));
            // The process group would take Docker's containerd along.
            std::mem::forget(process);
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The gateway's configuration for it.
    pub fn toml(&self) -> String {
        format!("[docker]\nsocket = \"{}\"\n", self.socket().display())
    }

    /// Docker's command line, which both engines understand.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.dir.path()).args(args);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        run(&mut self.command(args), Feed::Null, DEADLINE)
    }

    /// The identifiers of all its containers, running or not.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        self.cli(&["ps", "-aq", "--no-trunc"]).ok().split_whitespace().map(str::to_owned).collect()
    }

    /// What the daemon has said last.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let containers = try_run(&mut self.command(&["ps", "-aq"]), Feed::Null, DEADLINE);
            for container in containers.map(|output| output.text()).unwrap_or_default().split_whitespace() {
                let _ = try_run(&mut self.command(&["rm", "-f", container]), Feed::Null, DEADLINE);
            }
            process.signal(Signal::TERM);
            process.wait(Duration::from_secs(20));
        }
        // What a daemon that did not come back has left: containerd, its shims, and the first processes of containers, which are their children.
        let left = processes(|line, _| contains(line, self.dir.path().as_os_str().as_encoded_bytes()));
        for pid in left.iter().flat_map(|parent| processes(|_, of| of == *parent)).chain(left.iter().copied())
        {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        unmount(self.dir.path());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the engine has left mounted, the innermost first.
fn unmount(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| Path::new(path).starts_with(dir));
    for path in below.collect::<Vec<_>>().into_iter().rev() {
        let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The processes whose command line and parent are as asked.
fn processes(wanted: impl Fn(&[u8], i32) -> bool) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        wanted(&line, parent.unwrap_or_default())
    })
    .collect()
}

fn contains(line: &[u8], needle: &[u8]) -> bool {
    line.windows(needle.len()).any(|window| window == needle)
}
