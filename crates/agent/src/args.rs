//! The command line.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// Shown with every complaint about the command line.
pub const USAGE: &str =
    "usage: sandgate-agent (--listen-fd N | --stdio | --listen unix:PATH | --listen vsock:PORT | --hold) [--init | --machine] [--hangup-grace MILLIS]
       sandgate-agent --version";

/// Time between SIGHUP, SIGTERM and SIGKILL: long enough to save a file, short enough that nothing piles up.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Where the host is to be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// On an inherited listening socket.
    Fd(RawFd),
    /// On standard input and output.
    Stdio,
    /// On a socket made at this path.
    Path(PathBuf),
    /// On this vsock port, for the host alone.
    Vsock(u32),
    /// Nowhere: this process only keeps a container open. Other agents in it are met on their standard input and output.
    Nowhere,
}

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Where the host is to be met.
    pub place: Where,
    /// Do what process 1 does even with another id.
    pub init: bool,
    /// This is the init of a machine of its own: set its clock when asked, and switch it off at the end.
    pub machine: bool,
    /// Between the signals after the client has gone.
    pub grace: Duration,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Run(Args),
    /// Say the version.
    Version,
}

/// Parses arguments without the program's name.
pub fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut place = None;
    let mut init = false;
    let mut machine = false;
    let mut grace = DEFAULT_GRACE;
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default().to_owned();
        let mut value = || args.next().ok_or_else(|| format!("{text} needs a value"));
        match text.as_str() {
            "--version" => return Ok(Command::Version),
            "--init" => init = true,
            "--machine" => machine = true,
            "--stdio" => place = Some(Where::Stdio),
            "--hold" => place = Some(Where::Nowhere),
            "--listen-fd" => place = Some(Where::Fd(number(&value()?)?)),
            "--listen" => {
                let value = value()?;
                place = Some(listen(&value).ok_or("--listen takes unix:PATH or vsock:PORT")?);
            }
            "--hangup-grace" => grace = Duration::from_millis(number(&value()?)?),
            _ => return Err(format!("unknown argument {}", arg.to_string_lossy())),
        }
    }
    let place = place.ok_or("one of --listen-fd, --stdio, --listen and --hold is needed")?;
    Ok(Command::Run(Args { place, init, machine, grace }))
}

fn listen(text: &OsString) -> Option<Where> {
    match text.to_str()?.split_once(':')? {
        ("unix", path) if !path.is_empty() => Some(Where::Path(path.into())),
        // The highest number stands for any port.
        ("vsock", port) => port.parse().ok().filter(|port| *port != u32::MAX).map(Where::Vsock),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(text: &OsString) -> Result<T, String> {
    text.to_str()
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| format!("{} is not a number here", text.to_string_lossy()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn places() {
        let place = |words: &[&str]| match parse_words(words) {
            Ok(Command::Run(args)) => Ok(args.place),
            other => Err(other),
        };
        assert_eq!(place(&["--listen-fd", "3"]), Ok(Where::Fd(3)));
        assert_eq!(place(&["--stdio", "--init"]), Ok(Where::Stdio));
        assert_eq!(place(&["--listen", "unix:/tmp/a"]), Ok(Where::Path("/tmp/a".into())));
        assert_eq!(place(&["--hold"]), Ok(Where::Nowhere));
        assert_eq!(place(&["--listen", "vsock:1024"]), Ok(Where::Vsock(1024)));
        assert_eq!(parse_words(&["--version"]), Ok(Command::Version));
        for bad in [
            &[][..],
            &["--listen-fd"],
            &["--listen-fd", "x"],
            &["--listen", "tcp:1"],
            &["--listen", "vsock:x"],
            &["--what"],
        ] {
            assert!(parse_words(bad).is_err(), "{bad:?}");
        }
    }
}
