//! `sandgate-agent`: the static binary that runs inside a sandbox and starts processes, connects
//! and listens for the gateway.
//!
//! It serves the protocol of `docs/wire.md` on an inherited listening socket (`--listen-fd N`, the normal case), on its standard
//! input and output (`--stdio`), or on a socket that it makes itself (`--listen unix:PATH`, `--listen vsock:PORT`). With `--hold` it serves
//! nothing and keeps a container open. As process 1 it also reaps every orphan and brings the loopback interface up. Under other names the same file is a file server or a resolver (see `own`).

mod args;
mod connection;
mod detached;
mod dialing;
mod launch;
mod link;
mod listening;
mod machine;
mod modes;
mod net;
mod own;
mod resolve;
mod server;
mod session;
mod signals;
mod sys;
mod terminal;
mod users;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use args::{Args, Command, Where};
use launch::Base;
use server::{Config, Server, Source};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if machine::is_booting(&words) {
        return machine::boot();
    }
    if let Some(code) = own::run_if_asked(&words) {
        return code;
    }
    let args = match args::parse(words.into_iter().skip(1)) {
        Ok(Command::Run(args)) => args,
        Ok(Command::Version) => {
            println!("{}", link::SOFTWARE);
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("sandgate-agent: {text}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    let machine = args.machine;
    let result = run(args);
    if machine {
        machine::power_off(&result);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sandgate-agent: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> io::Result<()> {
    sys::keep_std_fds_busy();
    let signals = sys::signal_fd()?;
    let base = Base::from_process();
    let source = open_source(&args.place)?;
    if std::process::id() == 1 || args.init {
        // Without the capability, or without a network namespace, there is nothing to bring up.
        let _ = sys::loopback_up();
    }
    let nofile = raise_descriptor_limit();
    let config = Config { grace: args.grace, base, nofile, machine: args.machine };
    let server = Server::new(config, source, signals)?;
    if args.machine {
        machine::is_ready();
    }
    server.run()
}

fn open_source(place: &Where) -> io::Result<Source> {
    match place {
        Where::Fd(number) => sys::inherited_fd(*number).map(Source::Listener),
        Where::Stdio => {
            let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
            let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
            sys::neutralize_std_fd(0);
            sys::neutralize_std_fd(1);
            Ok(Source::Stdio { input, output })
        }
        Where::Path(path) => {
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            // Who can connect is root here.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(Source::Listener(listener.into()))
        }
        Where::Vsock(port) => sys::vsock_listener(*port).map(Source::Listener),
        Where::Nowhere => Ok(Source::Nothing),
    }
}

/// Each session takes a few descriptors. Children get the old limits back, which are returned.
fn raise_descriptor_limit() -> Option<(u64, u64)> {
    let old = getrlimit(Resource::Nofile);
    let (soft, hard) = (old.current?, old.maximum?);
    if soft >= hard {
        return None;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }).ok()?;
    Some((soft, hard))
}
