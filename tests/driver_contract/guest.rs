//! Somebody else's machine for the driver `external`: the agent in a root, mount and process namespace of its own. What it wrote and
//! mounted goes with it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sandgate_tests::paths;
use sandgate_tests::process::{Feed, Guard, try_run};
use sandgate_tests::wait::until;

/// A way to it, as `--link` takes it.
pub enum Link {
    /// A socket of the agent.
    Unix(PathBuf),
    /// A monitor's socket, port 1024.
    Hybrid(PathBuf),
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Hybrid(path) => write!(f, "hybrid:{}:1024", path.display()),
        }
    }
}

/// See the module.
pub struct Guest {
    dir: PathBuf,
    process: Option<Guard>,
}

impl Guest {
    /// Prepares it below `dir`; nothing runs yet.
    pub fn new(dir: &Path, agent: &Path, image: &Path) -> Result<Self, String> {
        for name in ["up", "share", "root"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        std::fs::copy(agent, dir.join("share/agent")).unwrap();
        // /proc and /dev are its own, files are an overlay on a file system in memory, and `share` is where the host sees its socket.
        let script = format!(
            "#!/bin/sh\nset -e\ncd {dir}\nmount -t tmpfs none up\nmkdir up/upper up/work\n\
             mount -t overlay none -o lowerdir={image},upperdir=up/upper,workdir=up/work root\n\
             mount -t proc none root/proc\nmount --rbind /dev root/dev\nmkdir -p root/run/share\nmount --bind share root/run/share\n\
             exec chroot root /usr/bin/env -i PATH=/usr/bin:/bin /run/share/agent \"$@\"\n",
            dir = dir.display(),
            image = image.display(),
        );
        let enter = dir.join("enter");
        std::fs::write(&enter, script).unwrap();
        std::fs::set_permissions(&enter, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut probe = Command::new("unshare");
        probe.args(["--mount", "--pid", "--fork", "true"]);
        match try_run(&mut probe, Feed::Null, Duration::from_secs(5)) {
            Ok(output) if output.code == 0 => Ok(Self { dir: dir.to_owned(), process: None }),
            _ => Err("this user may not make namespaces".into()),
        }
    }

    /// Where the agent listens, seen from the host.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("share/agent.sock")
    }

    /// For `--link`: the program whose standard input and output lead to the agent.
    pub fn exec_link(&self) -> String {
        format!("exec:{} --stdio", self.enter().join(" "))
    }

    fn enter(&self) -> Vec<String> {
        let enter = self.dir.join("enter").display().to_string();
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", &enter].map(str::to_owned).to_vec()
    }

    /// Starts the agent and waits until it listens.
    pub fn listen(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let words = self.enter();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["--listen", "unix:/run/share/agent.sock"]).current_dir("/");
        self.process = Some(Guard::spawn(command.stdin(Stdio::null())));
        let socket = self.socket();
        assert!(until(Duration::from_secs(10), || socket.exists()), "the agent does not listen");
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }
}

/// A hostile agent on a socket of the host, in that mode.
pub fn hostile_agent(mode: &str, socket: &Path) -> Guard {
    let listener = UnixListener::bind(socket).unwrap();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(paths::workspace().join("tests/hostile/agent.py")).env("HOSTILE", mode);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).stdout(Stdio::null());
    Guard::spawn(&mut command)
}

/// A monitor that speaks hybrid vsock at `door` and leads port 1024 to `agent`.
pub fn hybrid_door(door: &Path, agent: &Path) -> Guard {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(paths::workspace().join("tests/external/door.py"))
        .arg("hybrid")
        .arg(door)
        .arg("1024")
        .arg(agent);
    let mut guard = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(guard.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready", "the monitor does not listen");
    guard
}
