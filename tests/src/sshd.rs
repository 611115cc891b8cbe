//! Debian's `sshd` on a loopback port, with its own keys and configuration and nothing of the system's.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::Guard;
use crate::target::Options;

/// A running `sshd`.
pub struct Sshd {
    process: Guard,
    /// TCP port on 127.0.0.1.
    pub port: u16,
}

impl Sshd {
    /// Starts it with its files in `dir`; `dir/id.pub` may log in as root.
    ///
    /// It forwards all but X11, and that if asked for. The one subsystem is the program `sftp-server`.
    ///
    /// # Panics
    /// When it does not listen within a few seconds; the panic carries its log.
    pub fn start(dir: &Path, options: &Options) -> Self {
        // sshd refuses to start without its privilege separation directory.
        let _ = std::fs::create_dir_all("/run/sshd");
        crate::client::make_key(&dir.join("host"));
        let port = crate::wait::free_port();
        let mut config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/id.pub\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPidFile none\nMaxSessions 300\nMaxStartups 3000\nPrintMotd no\n\
             PrintLastLog no\n\
             LogLevel VERBOSE\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
            dir = dir.display()
        );
        writeln!(config, "AcceptEnv {}", options.accept_env.join(" ")).unwrap();
        if let Some(seconds) = options.keepalive_seconds {
            writeln!(config, "ClientAliveInterval {seconds}\nClientAliveCountMax 3").unwrap();
        }
        writeln!(config, "X11Forwarding {}", if options.x11 { "yes" } else { "no" }).unwrap();
        if options.stream_local_bind_unlink {
            writeln!(config, "StreamLocalBindUnlink yes").unwrap();
        }
        if let Some(bytes) = options.rekey_bytes {
            writeln!(config, "RekeyLimit {bytes}").unwrap();
        }
        if let Some(seconds) = options.login_grace_seconds {
            writeln!(config, "LoginGraceTime {seconds}").unwrap();
        }
        let file = dir.join("sshd_config");
        std::fs::write(&file, config).unwrap();
        let log = dir.join("sshd.log");
        let process = Guard::spawn(
            Command::new("/usr/sbin/sshd")
                .arg("-D")
                .arg("-f")
                .arg(&file)
                .arg("-E")
                .arg(&log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(
            crate::wait::until(Duration::from_secs(10), listens),
            "sshd does not listen: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        Self { process, port }
    }

    /// Process id of the listener.
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get() as u32
    }
}
