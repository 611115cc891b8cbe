//! `sandgate agent-install`: puts the guest agent into a machine that is not ours, or prints what does.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::paths;

/// Where the agent goes in the guest.
const PROGRAM: &str = "usr/local/sbin/sandgate-agent";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What starts programs in the guest
    #[arg(long, value_enum, default_value_t = Init::Systemd)]
    init: Init,
    /// Where the agent listens in the guest: vsock:PORT, or unix:/PATH
    #[arg(long, value_name = "PLACE", default_value = "vsock:1024", value_parser = place)]
    listen: String,
    /// The guest's root file system, to install into; without it, print what to put where
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The static guest agent [default: the one that belongs to this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Init {
    /// A unit
    Systemd,
    /// A service of OpenRC (Alpine, Gentoo)
    Openrc,
    /// A line of /etc/inittab (busybox, sysvinit)
    Inittab,
}

/// A file or a link that makes the guest start the agent.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    File {
        path: &'static str,
        text: String,
        mode: u32,
    },
    Link {
        path: &'static str,
        to: &'static str,
    },
    /// A line that is added unless one with this beginning is there.
    Line {
        path: &'static str,
        begins: &'static str,
        text: String,
    },
}

/// Reads `--listen`; nothing in it may end a line or a word of the files that are made.
fn place(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    match text.split_once(':') {
        Some(("vsock", port)) if port.parse::<u32>().is_ok_and(|port| port != u32::MAX) => {
            Ok(text.to_owned())
        }
        Some(("unix", path)) if path.starts_with('/') && path.chars().all(plain) => Ok(text.to_owned()),
        _ => Err("it is neither vsock:PORT nor unix:/PATH of letters, digits, '.', '_' and '-'".to_owned()),
    }
}

fn pieces(init: Init, listen: &str) -> Vec<Piece> {
    match init {
        Init::Systemd => vec![
            Piece::File {
                path: "etc/systemd/system/sandgate-agent.service",
                text: format!(
                    "[Unit]\nDescription=sandgate guest agent\nAfter=local-fs.target\n\n[Service]\n\
                     ExecStart=/{PROGRAM} --listen {listen}\nRestart=always\nRestartSec=1\n\
                     # Sessions are its children; it ends them itself.\nKillMode=mixed\nOOMScoreAdjust=-500\n\n\
                     [Install]\nWantedBy=multi-user.target\n"
                ),
                mode: 0o644,
            },
            Piece::Link {
                path: "etc/systemd/system/multi-user.target.wants/sandgate-agent.service",
                to: "../sandgate-agent.service",
            },
        ],
        Init::Openrc => vec![
            Piece::File {
                path: "etc/init.d/sandgate-agent",
                text: format!(
                    "#!/sbin/openrc-run\ndescription=\"sandgate guest agent\"\ncommand=/{PROGRAM}\n\
                     command_args=\"--listen {listen}\"\nsupervisor=supervise-daemon\nrespawn_delay=1\n\n\
                     depend() {{\n\tneed localmount\n}}\n"
                ),
                mode: 0o755,
            },
            Piece::Link { path: "etc/runlevels/default/sandgate-agent", to: "/etc/init.d/sandgate-agent" },
        ],
        Init::Inittab => vec![Piece::Line {
            path: "etc/inittab",
            begins: "::respawn:/usr/local/sbin/sandgate-agent",
            text: format!("::respawn:/{PROGRAM} --listen {listen}"),
        }],
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let pieces = pieces(args.init, &args.listen);
    match args.root {
        None => {
            let agent = paths::agent(args.agent)
                .map_or_else(|_| "sandgate-agent".to_owned(), |path| path.display().to_string());
            print!("{}", instructions(&agent, &pieces));
        }
        Some(root) => {
            let agent = paths::agent(args.agent)?;
            let guest = Guest::open(&root)?;
            let program = std::fs::read(&agent).with_context(|| format!("reading {}", agent.display()))?;
            guest.write(PROGRAM, &program, 0o755)?;
            for piece in &pieces {
                guest.put(piece)?;
            }
            println!(
                "{}: the agent is installed and listens on {} when it starts",
                root.display(),
                args.listen
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn instructions(agent: &str, pieces: &[Piece]) -> String {
    let mut text = format!("# In the guest: copy {agent} to /{PROGRAM} (mode 0755)\n");
    for piece in pieces {
        let _ = match piece {
            Piece::File { path, text: content, mode } => {
                write!(text, "# /{path} (mode {mode:04o}):\n{content}")
            }
            Piece::Link { path, to } => writeln!(text, "# and enable it: ln -s {to} /{path}"),
            Piece::Line { path, text: line, .. } => writeln!(text, "# a line of /{path}:\n{line}"),
        };
    }
    text
}

/// A root file system whose links lead nowhere outside: it may have been somebody's machine.
struct Guest {
    root: OwnedFd,
    name: String,
}

impl Guest {
    fn open(root: &Path) -> anyhow::Result<Self> {
        let name = root.display().to_string();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).with_context(|| format!("opening {name}"))?;
        Ok(Self { root, name })
    }

    fn put(&self, piece: &Piece) -> anyhow::Result<()> {
        match piece {
            Piece::File { path, text, mode } => self.write(path, text.as_bytes(), *mode),
            Piece::Link { path, to } => {
                let (directory, file) = self.parent(path)?;
                match rustix::fs::symlinkat(*to, &directory, file) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(error).with_context(|| self.doing("linking", path)),
                }
            }
            Piece::Line { path, begins, text } => {
                let before = self.read(path)?;
                let mut lines: Vec<&str> = before.lines().filter(|line| !line.starts_with(begins)).collect();
                lines.push(text);
                self.write(path, (lines.join("\n") + "\n").as_bytes(), 0o644)
            }
        }
    }

    fn doing(&self, what: &str, path: &str) -> String {
        format!("{what} {path} in {}", self.name)
    }

    /// The directory of a path, made where it is missing, and the name in it.
    fn parent<'a>(&self, path: &'a str) -> anyhow::Result<(OwnedFd, &'a str)> {
        let (directories, file) = path.rsplit_once('/').context("a path without a directory")?;
        let mut at = String::new();
        let mut directory = self.directory(".")?;
        for name in directories.split('/') {
            at.push_str(name);
            match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).with_context(|| self.doing("making", &at)),
            }
            directory = self.directory(&at)?;
            at.push('/');
        }
        Ok((directory, file))
    }

    fn directory(&self, path: &str) -> anyhow::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            .with_context(|| self.doing("opening", path))
    }

    /// Writes a file beside and moves it into place, so that a guest that runs never sees half of it.
    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let (directory, file) = self.parent(path)?;
        let beside = format!(".{file}.new");
        let write = || -> std::io::Result<()> {
            match rustix::fs::unlinkat(&directory, &beside, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(directory.as_fd(), &beside, flags, Mode::from_raw_mode(mode))?;
            // Whatever our umask is.
            rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            let mut made = std::fs::File::from(made);
            made.write_all(bytes)?;
            made.sync_all()?;
            Ok(rustix::fs::renameat(&directory, &beside, &directory, file)?)
        };
        write().with_context(|| self.doing("writing", path))
    }

    /// The text of a file; nothing where there is none.
    fn read(&self, path: &str) -> anyhow::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(file) => std::io::read_to_string(std::fs::File::from(file))
                .with_context(|| self.doing("reading", path)),
            Err(Errno::NOENT) => Ok(String::new()),
            Err(error) => Err(error).with_context(|| self.doing("reading", path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_stays_in_its_root_and_can_be_repeated() {
        let outside = tempfile::tempdir().expect("a directory");
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("usr")).expect("usr");
        // Somebody's links: an absolute one counts from the root, one that climbs stops there.
        std::os::unix::fs::symlink(outside.path(), root.path().join("usr/local")).expect("a link");
        let guest = Guest::open(root.path()).expect("the root");
        assert!(guest.write(PROGRAM, b"agent", 0o755).is_err(), "the link leads to nothing inside");
        assert_eq!(std::fs::read_dir(outside.path()).expect("outside").count(), 0);
        std::fs::remove_file(root.path().join("usr/local")).expect("the link");
        for _ in 0..2 {
            guest.write(PROGRAM, b"agent", 0o755).expect("the program");
            for init in [Init::Systemd, Init::Openrc, Init::Inittab] {
                for piece in pieces(init, "vsock:7") {
                    guest.put(&piece).expect("a piece");
                }
            }
        }
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).expect(path);
        assert_eq!(read("etc/inittab"), "::respawn:/usr/local/sbin/sandgate-agent --listen vsock:7\n");
        assert!(
            read("etc/systemd/system/multi-user.target.wants/sandgate-agent.service")
                .contains("--listen vsock:7")
        );
        assert!(read("etc/init.d/sandgate-agent").contains("--listen vsock:7"));
        assert_eq!(read(PROGRAM), "agent");
    }

    #[test]
    fn a_place_cannot_break_the_files() {
        for good in ["vsock:1024", "unix:/run/agent.sock"] {
            assert_eq!(place(good).as_deref(), Ok(good));
        }
        for bad in ["vsock:", "vsock:x", "unix:run", "unix:/a b", "unix:/a\nb", "unix:/$(id)", "tcp:1"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
