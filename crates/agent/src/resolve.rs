//! Host names, resolved by a short-lived child so that the event loop never waits.
//!
//! The child is the agent's own file under another name (see `own`), runs as the login user, and prints one address a line, or a `!` and the
//! words of the C library. The released agent is static, and the C library's `files` and `dns` are built into it, so an image needs
//! nothing but its `/etc/hosts` and `/etc/resolv.conf`.

use std::ffi::{CString, OsString};
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use sandgate_wire::message::Reason;

use crate::launch::{Base, Refusal};
use crate::sys::{self, Failure, Spawn, Terminal};
use crate::users::Creds;
use crate::{net, own};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// Bytes that a child may print: more than that many addresses ever take.
const MAX_OUTPUT: usize = 4096;

/// The child: prints the addresses of its argument.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = args.next().unwrap_or_default();
    let mut out = Vec::new();
    match name.to_str().map(|name| (name, 0).to_socket_addrs()) {
        Some(Ok(addresses)) => {
            for address in addresses.take(MAX_ADDRESSES) {
                let _ = writeln!(out, "{address}");
            }
        }
        Some(Err(e)) => {
            // The standard library puts its own words before those of the C library.
            let text = e.to_string();
            let _ = write!(out, "!{}", text.rsplit(": ").next().unwrap_or_default());
        }
        None => out.extend_from_slice(b"!Name or service not known"),
    }
    let written = std::io::stdout().write_all(&out);
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A child at work. It is killed when this is dropped before [`Lookup::reaped`].
#[derive(Debug)]
pub struct Lookup {
    pid: Option<i32>,
    from: OwnedFd,
    text: Vec<u8>,
}

impl Lookup {
    /// Starts a child.
    pub fn start(
        base: &Base,
        nofile: Option<(u64, u64)>,
        creds: Option<&Creds>,
        host: &[u8],
    ) -> Result<Self, Refusal> {
        let words = |list: Vec<Vec<u8>>| {
            list.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(|_| not_known())
        };
        let programs = words(own::paths(&base.exe))?;
        let argv = words(vec![own::RESOLVE.to_vec(), host.to_vec()])?;
        let envp = words(base.env.iter().map(|(k, v)| [&k[..], b"=", v].concat()).collect())?;
        let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(net::refusal)?;
        rustix::io::ioctl_fionbio(&from, true).map_err(net::refusal)?;
        // An image may have no /dev/null.
        let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let null = open("/dev/null").or_else(|_| open("/")).map_err(net::refusal)?;
        let failure = Failure { prefix: b"!".to_vec(), missing: b"the agent's own file is gone".to_vec() };
        let plan = Spawn {
            stdio: [null.as_fd(), to.as_fd(), to.as_fd()],
            terminal: Terminal::None,
            creds,
            chdirs: &[],
            programs: &programs,
            argv: &argv,
            envp: &envp,
            nofile,
            failure: &failure,
        };
        let pid = sys::spawn(&plan).map_err(|e| {
            let text = sys::errno_text(e.raw_os_error().unwrap_or_default());
            Refusal::new(Reason::Resources, format!("the sandbox cannot start a resolver: {text}"))
        })?;
        Ok(Self { pid: Some(pid), from, text: Vec::new() })
    }

    /// The child, until it was reaped.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// The child has been reaped: its number may belong to somebody else from now on.
    pub fn reaped(&mut self) {
        self.pid = None;
    }

    /// Where to wait for more.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    /// Takes what the child has said; the result once it has said everything.
    pub fn read(&mut self) -> Option<Result<Vec<SocketAddr>, Refusal>> {
        let mut buf = [0; 1024];
        loop {
            match rustix::io::read(&self.from, &mut buf) {
                Ok(0) => return Some(parse(&self.text)),
                Ok(n) => self.text.extend_from_slice(&buf[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(e) => return Some(Err(net::refusal(e))),
            }
            if self.text.len() > MAX_OUTPUT {
                return Some(Err(not_known()));
            }
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }
}

fn parse(output: &[u8]) -> Result<Vec<SocketAddr>, Refusal> {
    let text = String::from_utf8_lossy(output);
    if let Some(words) = text.strip_prefix('!') {
        let words = words.trim();
        return Err(Refusal::new(Reason::NameNotFound, words.chars().take(200).collect::<String>()));
    }
    let addresses: Vec<SocketAddr> =
        text.lines().filter_map(|line| line.parse().ok()).take(MAX_ADDRESSES).collect();
    if addresses.is_empty() { Err(not_known()) } else { Ok(addresses) }
}

fn not_known() -> Refusal {
    Refusal::new(Reason::NameNotFound, "Name or service not known")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_says() {
        let good = parse(b"1.2.3.4:0\n[fe80::1%2]:0\nnonsense\n").unwrap();
        assert_eq!(good.len(), 2);
        assert_eq!(good[0].to_string(), "1.2.3.4:0");
        let bad = parse(b"!Name or service not known").unwrap_err();
        assert_eq!((bad.reason, bad.text.as_str()), (Reason::NameNotFound, "Name or service not known"));
        assert_eq!(parse(b"").unwrap_err().reason, Reason::NameNotFound);
    }
}
