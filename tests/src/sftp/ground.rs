//! A target with a directory that has the same path on the host, and OpenSSH's own server beside it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Sftp;
use crate::client::{self, DEADLINE};
use crate::process::{Feed, Output, run, try_run};
use crate::{Kind, Options, Target, files};

/// OpenSSH's own file server, of Debian's package openssh-sftp-server.
pub const ORACLE: &str = "/usr/lib/openssh/sftp-server";
/// The ordinary user in the sandbox, and as whom the oracle runs beside it.
const USER_ID: u32 = 1000;

/// A target and a directory for both sides. Everybody may write to the directory.
pub struct Ground {
    /// The server under test.
    pub target: Target,
    dir: tempfile::TempDir,
    /// The image, when it is not the host's own.
    _image: Option<tempfile::TempDir>,
}

impl Ground {
    /// With root as login user, who owns nothing that the host's root owns.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// With the ordinary user `me`; where the oracle is under test with root, the only account there.
    pub fn of_a_user() -> Self {
        Self::with(Options {
            create_args: ["--user", "me"].map(str::to_owned).to_vec(),
            ..Options::default()
        })
    }

    /// With an image that holds nothing, so that the agent itself is `scp`; only for the gateway.
    pub fn bare() -> Self {
        Self::bare_prepared(|_| ())
    }

    /// As [`Ground::bare`], after something was done to the directory.
    ///
    /// # Panics
    /// When the image or the directory cannot be made.
    pub fn bare_prepared(prepare: impl FnOnce(&Path)) -> Self {
        let image = crate::target::short_dir();
        files::make_image(image.path(), &[]);
        let create_args = vec!["--image".to_owned(), image.path().display().to_string()];
        let mut ground = Self::prepared(Options { create_args, ..Options::default() }, prepare);
        ground._image = Some(image);
        ground
    }

    /// With other differences.
    ///
    /// # Panics
    /// When the directory cannot be made or the target does not start.
    pub fn with(options: Options) -> Self {
        Self::prepared(options, |_| ())
    }

    /// As [`Ground::with`], after something was done to the directory, such as mounting a file system there.
    ///
    /// # Panics
    /// When the directory cannot be made or the target does not start.
    pub fn prepared(mut options: Options, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("sgf").rand_bytes(6).tempdir_in("/tmp").unwrap();
        prepare(dir.path());
        open_for_all(dir.path());
        let mount = format!("{0}:{0}", dir.path().display());
        options.create_args.extend(["--mount".to_owned(), mount]);
        Self { target: Target::start_with(&options), dir, _image: None }
    }

    /// The directory, the same path on the host and at the server.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a directory below it that everybody may write to.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn open_dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir(&path).unwrap();
        open_for_all(&path);
        path
    }

    /// Runs these `sftp` commands to their end, with further options.
    #[track_caller]
    pub fn sftp_with(&self, options: &[&str], batch: impl AsRef<[u8]>) -> Output {
        let mut command = Command::new("sftp");
        command.arg("-F").arg(self.target.config()).args(options).args(["-b", "-", "box"]);
        run(command.current_dir(self.target.dir()), Feed::Bytes(batch.as_ref().to_vec()), DEADLINE)
    }

    /// Runs these `sftp` commands to their end. Local paths are relative to the target's scratch directory.
    #[track_caller]
    pub fn sftp(&self, batch: impl AsRef<[u8]>) -> Output {
        self.sftp_with(&[], batch)
    }

    /// Runs these `sftp` commands with OpenSSH's own server, without any SSH.
    #[track_caller]
    pub fn oracle(&self, batch: impl AsRef<[u8]>) -> Output {
        let mut command = Command::new("sftp");
        command.arg("-D").arg(self.oracle_program()).args(["-b", "-"]).current_dir(self.target.dir());
        run(&mut command, Feed::Bytes(batch.as_ref().to_vec()), DEADLINE)
    }

    /// A program that runs the oracle, as an ordinary user where the sandbox's user is one in effect.
    fn oracle_program(&self) -> PathBuf {
        let script = self.target.dir().join("oracle");
        let user = match self.target.kind() {
            Kind::Gateway if is_root() => {
                format!("setpriv --reuid {USER_ID} --regid {USER_ID} --clear-groups ")
            }
            _ => String::new(),
        };
        if !script.exists() {
            std::fs::write(&script, format!("#!/bin/sh\nexec {user}{ORACLE}\n")).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        script
    }

    /// Runs the same `sftp` commands with the server under test and with the oracle, each in a directory of its own that `prepare` has
    /// filled, and asserts that the client says the same of both. Gives its code and words, with `DIR` for the directory.
    ///
    /// # Panics
    /// When they differ.
    #[track_caller]
    pub fn same_as_oracle(
        &self,
        prepare: impl Fn(&Path),
        batch: impl Fn(&str) -> String,
    ) -> (i32, String, String) {
        let outcome = |name: &str, run: &dyn Fn(&str) -> Output| {
            let dir = self.open_dir(name);
            prepare(&dir);
            let output = run(&batch(&dir.display().to_string()));
            let plain = |text: String| text.replace(&dir.display().to_string(), "DIR");
            (output.code, plain(output.text()), plain(output.errors()))
        };
        // Names of one length, since the client cuts long messages.
        let theirs = outcome("oracle", &|batch| self.oracle(batch));
        let ours = outcome("server", &|batch| self.sftp(batch));
        assert_eq!(ours, theirs, "the server under test is on the left, OpenSSH's on the right");
        ours
    }

    /// Runs `scp` with these arguments to its end.
    #[track_caller]
    pub fn scp(&self, args: &[&str]) -> Output {
        run(&mut self.scp_command(args), Feed::Null, DEADLINE)
    }

    /// `scp` with these arguments, ready to run in the target's scratch directory.
    pub fn scp_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("scp");
        command.arg("-F").arg(self.target.config()).args(args).current_dir(self.target.dir());
        command
    }

    /// A raw session over a connection of its own.
    #[track_caller]
    pub fn raw(&self) -> Sftp {
        Sftp::start(&mut self.target.ssh(&["-s", "box", "sftp"]))
    }

    /// A raw session over a shared connection.
    #[track_caller]
    pub fn raw_over(&self, master: &client::Master) -> Sftp {
        Sftp::start(&mut master.ssh(&["-s", "box", "sftp"]))
    }

    /// Process ids of the file servers that run for this target right now.
    ///
    /// # Panics
    /// When the sandbox does not run.
    pub fn servers(&self) -> Vec<u32> {
        let mut all = Vec::new();
        descend(self.root(), &mut all);
        all.retain(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).next().unwrap_or_default().ends_with(b"sftp-server")
        });
        all
    }

    /// The process from which every process of a session descends: the agent, or sshd.
    ///
    /// # Panics
    /// When the sandbox does not run.
    pub fn root(&self) -> u32 {
        if self.target.kind() == Kind::Sshd {
            return self.target.pid();
        }
        let sandbox = self.target.gateway().json(&["sandbox", "inspect", "box"]);
        pid_in(&sandbox).unwrap_or_else(|| panic!("no process in {sandbox}"))
    }
}

impl Default for Ground {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Where the test does not run as root, only the server can remove what it made.
        if !is_root() {
            let mut command = self
                .target
                .ssh(&["box", &format!("chmod -R u+rwx {0}/*; rm -rf {0}/*", self.path().display())]);
            let _ = try_run(&mut command, Feed::Null, DEADLINE);
        }
    }
}

/// Whether this is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn open_for_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

fn pid_in(value: &serde_json::Value) -> Option<u32> {
    match value {
        serde_json::Value::Object(map) => map
            .get("pid")
            .and_then(|pid| pid.as_u64()?.try_into().ok())
            .or_else(|| map.values().find_map(pid_in)),
        _ => None,
    }
}

fn descend(pid: u32, into: &mut Vec<u32>) {
    into.push(pid);
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|word| word.parse().ok()) {
            descend(child, into);
        }
    }
}
