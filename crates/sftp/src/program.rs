//! The SFTP server as a program of its own, on standard input and output: takes the place of OpenSSH's `sftp-server`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::audit::{Audit, Event, Lines, Silent};
use crate::names::Names;
use crate::requests::{self, Permitted};
use crate::vfs::{OsVfs, ReadOnly, RootedVfs, Vfs};
use crate::{Config, Homes, ServeError, serve};

const USAGE: &str = "usage: sandgate-sftp-server [-ehR] [-d start_directory] [-f log_facility] [-l log_level]
\t[-P denied_requests] [-p allowed_requests] [-u umask] [--root directory] [--read-only] [--audit]
       sandgate-sftp-server -Q requests
";

/// Runs as a program with these arguments (without its name) over the process's standard streams.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(Stop::Usage) => {
            eprint!("{USAGE}");
            return ExitCode::from(1);
        }
        Err(Stop::Error(text)) => {
            eprintln!("sandgate-sftp-server: {text}\n{USAGE}");
            return ExitCode::from(1);
        }
        Err(Stop::ListRequests) => return list_requests(),
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("sandgate-sftp-server: {text}");
            ExitCode::from(code)
        }
    }
}

/// Keeps this process's memory and open files from everybody but itself, also from its own user: what a file server may do is less than what
/// its user may, and another server of the same user must not be the way round that. As OpenSSH's server does.
///
/// # Errors
/// The kernel refuses. A server must not serve then.
pub fn forbid_tracing() -> rustix::io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}

/// What the command line says.
#[derive(Default)]
struct Options {
    log_to_stderr: bool,
    log_changes: bool,
    audit: bool,
    read_only: bool,
    start: Option<Vec<u8>>,
    root: Option<Vec<u8>>,
    denied: Option<String>,
    allowed: Option<String>,
    umask: Option<u32>,
}

/// Why the command line does not lead to a session.
enum Stop {
    Usage,
    ListRequests,
    Error(String),
}

impl Options {
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Stop> {
        let mut options = Self::default();
        let mut args = args.map(OsStringExt::into_vec);
        while let Some(arg) = args.next() {
            match &arg[..] {
                b"--root" => options.root = Some(args.next().ok_or_else(|| missing("--root"))?),
                b"--audit" => options.audit = true,
                b"--read-only" => options.read_only = true,
                // Called as a login shell: what follows is a command for a shell, and is ignored as OpenSSH does.
                b"-c" => break,
                [b'-', flags @ ..] if !flags.is_empty() && flags[0] != b'-' => {
                    options.short(flags, &mut args)?
                }
                [b'-', b'-', _, ..] => {
                    return Err(Stop::Error(format!("unknown option {}", arg.escape_ascii())));
                }
                // The end of the options. `scp -D` adds a host and a subsystem, which mean nothing here.
                _ => break,
            }
        }
        Ok(options)
    }

    /// One argument of letters; a value follows its letter at once or is the next argument.
    fn short(&mut self, flags: &[u8], args: &mut impl Iterator<Item = Vec<u8>>) -> Result<(), Stop> {
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                b'e' => self.log_to_stderr = true,
                b'R' => self.read_only = true,
                b'h' => return Err(Stop::Usage),
                b'd' | b'f' | b'l' | b'P' | b'p' | b'Q' | b'u' => {
                    let attached = &flags[at + 1..];
                    let value = if attached.is_empty() { args.next() } else { Some(attached.to_vec()) };
                    let letter = char::from(*flag);
                    return self.value(letter, value.ok_or_else(|| missing(&format!("-{letter}")))?);
                }
                other => return Err(Stop::Error(format!("unknown option -{}", other.escape_ascii()))),
            }
        }
        Ok(())
    }

    fn value(&mut self, letter: char, value: Vec<u8>) -> Result<(), Stop> {
        if letter == 'd' {
            self.start = Some(value);
            return Ok(());
        }
        let value = String::from_utf8(value)
            .map_err(|_| Stop::Error(format!("the value of -{letter} is not text")))?;
        let list = |old: &Option<String>, value: String| match old {
            Some(_) => Err(Stop::Error(format!("-{letter} is given twice"))),
            None => Ok(Some(value)),
        };
        match letter {
            'l' => {
                let level = value.to_ascii_uppercase();
                self.log_changes = match &*level {
                    "QUIET" | "FATAL" | "ERROR" => false,
                    "INFO" | "VERBOSE" | "DEBUG" | "DEBUG1" | "DEBUG2" | "DEBUG3" => true,
                    _ => return Err(Stop::Error(format!("invalid log level {value:?}"))),
                };
            }
            // Accepted for compatibility: this program does not log to syslog.
            'f' => {}
            'P' => self.denied = list(&self.denied, value)?,
            'p' => self.allowed = list(&self.allowed, value)?,
            'u' => {
                let mask = u32::from_str_radix(&value, 8).ok().filter(|mask| *mask <= 0o777);
                self.umask = Some(mask.ok_or_else(|| Stop::Error(format!("invalid umask {value:?}")))?);
            }
            _ if value.eq_ignore_ascii_case("requests") => return Err(Stop::ListRequests),
            _ => return Err(Stop::Error(format!("unknown query {value:?}"))),
        }
        Ok(())
    }
}

fn missing(option: &str) -> Stop {
    Stop::Error(format!("{option} needs a value"))
}

fn list_requests() -> ExitCode {
    let mut out = io::stdout().lock();
    for kind in requests::ALL {
        if writeln!(out, "{}", kind.name).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Prepares and serves. The error is an exit status, as OpenSSH's, and a text.
fn run(options: Options) -> Result<(), (u8, String)> {
    let error = |text: String| (1, text);
    forbid_tracing().map_err(|e| error(format!("the process cannot be kept from being traced: {e}")))?;
    if let Some(mask) = options.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    let mut config = Config { home: home(), ..Config::default() };
    if let Some(start) = options.start {
        let start = expand(&start, &config.home);
        // Served all the same, as OpenSSH does: the client sees where it is.
        if let Err(e) = rustix::process::chdir(&*start) {
            eprintln!("sandgate-sftp-server: chdir to \"{}\" failed: {e}", start.escape_ascii());
        }
    }
    config.permitted = permitted(options.read_only, options.denied.as_deref(), options.allowed.as_deref());
    let vfs: Arc<dyn Vfs> = match (options.root, options.read_only) {
        (None, false) => Arc::new(OsVfs::new()),
        (None, true) => Arc::new(ReadOnly(OsVfs::new())),
        (Some(root), read_only) => {
            config.homes = Homes::Own;
            let vfs = RootedVfs::new(&root).map_err(|e| error(with_cause(&e)))?;
            if read_only { Arc::new(ReadOnly(vfs)) } else { Arc::new(vfs) }
        }
    };
    let audit: Box<dyn Audit> = if options.audit {
        Box::new(Lines(io::stderr()))
    } else if options.log_to_stderr && options.log_changes {
        Box::new(Log)
    } else {
        Box::new(Silent)
    };
    serve(config, vfs, audit, io::stdin(), io::stdout()).map_err(|e| {
        let code = match e {
            ServeError::Packet(_) => 11,
            ServeError::NotBegun => 255,
            _ => 1,
        };
        (code, with_cause(&e))
    })
}

fn with_cause(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), |cause| format!("{e} {cause}"))
}

fn permitted(read_only: bool, denied: Option<&str>, allowed: Option<&str>) -> Permitted {
    let mut permitted = Permitted::default();
    if read_only {
        permitted = permitted.read_only();
    }
    if let Some(list) = denied {
        permitted = permitted.deny(list);
    }
    if let Some(list) = allowed {
        permitted = permitted.only(list);
    }
    permitted
}

/// The user's home directory: of `passwd`, else of the environment, else `/`.
fn home() -> Vec<u8> {
    let names = Names::load(Path::new("/etc"));
    let uid = rustix::process::getuid().as_raw();
    let home = names.user(uid).and_then(|user| names.home(user)).filter(|home| !home.is_empty());
    let env = || std::env::var_os("HOME").map(OsStringExt::into_vec);
    home.map(<[u8]>::to_vec).or_else(env).unwrap_or_else(|| b"/".to_vec())
}

/// `-d` with `~` and `%d` (home), `%u` (login name), `%U` (uid) and `%%`.
fn expand(start: &[u8], home: &[u8]) -> Vec<u8> {
    let uid = rustix::process::getuid().as_raw();
    let mut out = Vec::new();
    let rest = match start {
        [b'~'] | [b'~', b'/', ..] => {
            out.extend_from_slice(home);
            &start[1..]
        }
        _ => start,
    };
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match (byte, if *byte == b'%' { bytes.next() } else { None }) {
            (b'%', Some(b'd')) => out.extend_from_slice(home),
            (b'%', Some(b'u')) => {
                out.extend_from_slice(Names::load(Path::new("/etc")).user(uid).unwrap_or_default())
            }
            (b'%', Some(b'U')) => out.extend(uid.to_string().bytes()),
            (b'%', Some(other)) if *other != b'%' => out.extend([b'%', *other]),
            (other, _) => out.push(*other),
        }
    }
    out
}

/// Changes as lines for a person, with `-e`.
struct Log;

impl Audit for Log {
    fn record(&mut self, event: &Event<'_>) -> io::Result<()> {
        let to = event.to.as_ref().map(|to| format!(" to \"{}\"", to.escape_ascii())).unwrap_or_default();
        // A log that nobody reads stops no transfer.
        let _ = writeln!(
            io::stderr(),
            "{} \"{}\"{to} bytes {}",
            event.verb.as_str(),
            event.path.escape_ascii(),
            event.size
        );
        Ok(())
    }
}
