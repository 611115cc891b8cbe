//! The remote side of scp as a program of its own: in place of `scp` where a shell starts it, or of the shell too.
//!
//! `sandgate-scp -t|-f [-rpd] [--] path...` is what a shell would run; `sandgate-scp --command LINE` takes the line that the client sent
//! and does the shell's part itself. Before either, `--root DIR` and `--read-only` restrict what it reaches, and `--audit` writes a line
//! on standard error for each change.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use rustix::fs::Mode;
use sandgate_sftp::audit::{Audit, Lines, Silent};
use sandgate_sftp::program::forbid_tracing;
use sandgate_sftp::vfs::{OsVfs, ReadOnly, RootedVfs, Vfs};

use crate::command::Command;
use crate::expand::{Homes, OneHome, SystemHomes};
use crate::{Context, serve};

const USAGE: &str = "usage: sandgate-scp [--root DIR] [--read-only] [--audit] -t|-f [-rpd] [--] path ...
       sandgate-scp [--root DIR] [--read-only] [--audit] --command LINE
       The remote side of scp -O; it speaks the protocol on standard input and output.";

/// What the command line asks for.
struct Request {
    root: Option<Vec<u8>>,
    read_only: bool,
    audit: bool,
    command: Command,
}

/// Runs as a program with these arguments (without its name) over the process's standard streams.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let request = parse(args.map(OsStringExt::into_vec));
    match request.filter(|_| !io::stdin().is_terminal()) {
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
        Some(request) => run(&request).unwrap_or_else(|error| {
            eprintln!("sandgate-scp: {error}");
            ExitCode::FAILURE
        }),
    }
}

fn parse(args: impl Iterator<Item = Vec<u8>>) -> Option<Request> {
    let (mut root, mut read_only, mut audit) = (None, false, false);
    let mut args = args.peekable();
    let command = loop {
        match args.peek()?.as_slice() {
            b"--root" => root = args.nth(1),
            b"--read-only" => read_only = args.next().is_some(),
            b"--audit" => audit = args.next().is_some(),
            b"--command" => break Command::parse(&args.nth(1)?),
            _ => break Command::from_args(args),
        }
    };
    Some(Request { root, read_only, audit, command: command? })
}

fn run(request: &Request) -> Result<ExitCode, Box<dyn std::error::Error>> {
    forbid_tracing().map_err(|e| format!("the process cannot be kept from being traced: {e}"))?;
    let (vfs, homes): (Box<dyn Vfs>, Box<dyn Homes>) = match &request.root {
        None => {
            let home = std::env::var_os("HOME").map(OsString::into_vec).unwrap_or_default();
            (restricted(OsVfs::new(), request.read_only), Box::new(SystemHomes::new(home)))
        }
        Some(root) => {
            let vfs = RootedVfs::new(root)?;
            let home = vfs.cwd()?;
            (restricted(vfs, request.read_only), Box::new(OneHome(home)))
        }
    };
    let mut lines = Lines(io::stderr());
    let audit: &mut dyn Audit = if request.audit { &mut lines } else { &mut Silent };
    // There is no other way to ask for it than to set it.
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    let context = Context { vfs: &*vfs, audit, homes: &*homes, umask: umask.as_raw_mode() };
    // As files, since the library does its own buffering.
    let input = File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let output = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    Ok(serve(&request.command, context, input, output).code().into())
}

fn restricted(vfs: impl Vfs + 'static, read_only: bool) -> Box<dyn Vfs> {
    if read_only { Box::new(ReadOnly(vfs)) } else { Box::new(vfs) }
}
