//! A gateway with one running sandbox `box` of a driver, and what only that driver's test bench knows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sandgate_tests::engine::{self, Engine};
use sandgate_tests::machine;
use sandgate_tests::target::short_dir;
use sandgate_tests::wait::until;
use sandgate_tests::{Options, Output, Target, paths, rootfs};

use crate::guest::{Guest, Link, hybrid_door};

/// What the image is called in a container engine.
pub const IMAGE: &str = "contract";

/// The grounds that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The driver `oci` with that runtime.
    Oci(&'static str),
    /// An agent that listens on a Unix socket: pipes are passed.
    ExternalUnix,
    /// The same behind a monitor's socket, one connection per channel, frames.
    ExternalHybrid,
    /// A program's standard input and output, all channels on one pipe.
    ExternalExec,
    /// Containers of Docker.
    Docker,
    /// Containers of Podman, by the same API.
    Podman,
    /// A microVM, by emulation, as a copy of one that has booted.
    Qemu,
}

impl Kind {
    /// The name in the table.
    pub fn name(self) -> String {
        match self {
            Self::Oci(runtime) => format!("oci-{runtime}"),
            Self::ExternalUnix => "external-unix".into(),
            Self::ExternalHybrid => "external-hybrid".into(),
            Self::ExternalExec => "external-exec".into(),
            Self::Docker => "docker".into(),
            Self::Podman => "podman".into(),
            Self::Qemu => "qemu".into(),
        }
    }

    /// The agent is started by somebody else than the gateway, so after a crash it is started again by the test.
    pub fn is_external(self) -> bool {
        matches!(self, Self::ExternalUnix | Self::ExternalHybrid | Self::ExternalExec)
    }
}

/// See the module.
pub struct Ground {
    /// Which driver.
    pub kind: Kind,
    /// The gateway, and the stock clients that reach `box`.
    pub target: Target,
    /// Set by a behaviour that has no meaning for this driver: why.
    pub exemption: Option<String>,
    guest: Option<Guest>,
    /// After the target, whose containers it runs.
    _engine: Option<Engine>,
    _doors: Vec<sandgate_tests::process::Guard>,
    dir: tempfile::TempDir,
}

impl Ground {
    /// Starts it. The error says what this machine or this binary lacks.
    pub fn start(kind: Kind) -> Result<Self, String> {
        let Some(agent) = paths::agent() else {
            return Err("the static agent is not built (make build)".into());
        };
        let dir = short_dir();
        let mut doors = Vec::new();
        let mut guest = None;
        let mut engine = None;
        let mut create: Vec<String> = Vec::new();
        let mut toml = "[sandbox]\nstart_timeout = \"10s\"\n".to_owned();
        match kind {
            Kind::Oci(runtime) => {
                needs_runtime(runtime)?;
                create.extend(["--runtime".into(), runtime.into(), "--image".into()]);
                create.push(rootfs::image().display().to_string());
            }
            Kind::ExternalUnix | Kind::ExternalHybrid | Kind::ExternalExec => {
                let made = Guest::new(dir.path(), &agent, &rootfs::image())?;
                create.push("--link".into());
                create.push(match kind {
                    Kind::ExternalExec => made.exec_link(),
                    Kind::ExternalUnix => Link::Unix(made.socket()).to_string(),
                    _ => {
                        let door = dir.path().join("v.sock");
                        doors.push(hybrid_door(&door, &made.socket()));
                        Link::Hybrid(door).to_string()
                    }
                });
                guest = Some(made);
            }
            Kind::Docker | Kind::Podman => {
                let which = if kind == Kind::Docker { engine::Kind::Docker } else { engine::Kind::Podman };
                let started = Engine::start(which).ok_or("its engine does not start here")?;
                started.import_dir(&rootfs::image(), IMAGE);
                create.extend(["--driver", "docker", "--image", IMAGE].map(str::to_owned));
                toml.push_str(&started.toml());
                engine = Some(started);
            }
            Kind::Qemu => {
                let needs = machine::Needs::look()?;
                create.extend(machine::words(&rootfs::image().display().to_string()));
                toml.push_str(&needs.toml(""));
            }
        }
        create.extend(["--user".into(), rootfs::USER.into()]);
        if kind != Kind::ExternalExec
            && let Some(guest) = &mut guest
        {
            guest.listen();
        }
        let options = Options { create_args: create, extra_toml: toml, ..Options::default() };
        let target = Target::start_with(&options);
        Ok(Self { kind, target, exemption: None, guest, _engine: engine, _doors: doors, dir })
    }

    /// A place of this ground on the host.
    pub fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ssh box COMMAND`.
    #[track_caller]
    pub fn exec(&self, command: &str) -> Output {
        self.target.exec(command)
    }

    /// `sandbox inspect box`.
    #[track_caller]
    pub fn inspect(&self) -> serde_json::Value {
        self.target.gateway().json(&["sandbox", "inspect", "box"])
    }

    /// Ends what runs the sandbox, as a crash would: nobody is told.
    pub fn crash(&mut self) {
        match (self.kind, &mut self.guest) {
            (Kind::ExternalUnix | Kind::ExternalHybrid, Some(guest)) => guest.kill(),
            _ => {
                let pid = self.inspect()["pid"].as_i64().expect("a pid") as i32;
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
                let gone = || !Path::new(&format!("/proc/{pid}")).exists();
                assert!(until(Duration::from_secs(5), gone), "process {pid} cannot be killed");
            }
        }
    }

    /// Starts again what [`Ground::crash`] ended and the gateway does not start by itself.
    pub fn revive(&mut self) {
        if matches!(self.kind, Kind::ExternalUnix | Kind::ExternalHybrid)
            && let Some(guest) = &mut self.guest
        {
            guest.listen();
        }
    }
}

fn needs_runtime(runtime: &str) -> Result<(), String> {
    if runtime == "builtin" {
        return Ok(());
    }
    if paths::which(runtime).is_none() {
        return Err(format!("{runtime} is not installed"));
    }
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    if runtime == "crun" && hybrid {
        return Err("crun does not run where cgroups are hybrid".into());
    }
    Ok(())
}
