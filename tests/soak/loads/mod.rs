//! The loads. Each is a module of its own, uses stock clients (and `sandgate ssh`), and runs until it is told to stop.

mod agents;
mod cli;
mod dynamic;
mod fetch;
mod local;
mod remote;
mod restarts;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use sandgate_tests::process::Guard;

use crate::ground::{Dice, Ground, Stop, Tally};

/// One load.
pub struct Load {
    /// For tables and `SOAK_LOADS`.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Ground, &Stop, &Tally),
}

/// All of them.
pub const ALL: &[Load] = &[
    Load { name: "fetch", run: fetch::run },
    Load { name: "agents", run: agents::run },
    Load { name: "restarts", run: restarts::run },
    Load { name: "local", run: local::run },
    Load { name: "remote", run: remote::run },
    Load { name: "dynamic", run: dynamic::run },
    Load { name: "cli", run: cli::run },
];

/// Starts a client that forwards.
fn forwarder(mut command: Command) -> Guard {
    Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Ends a client in one of the ways in which clients end, mostly without a word.
fn end(mut client: Guard, dice: &mut Dice) {
    match dice.roll(3) {
        0 => {
            client.signal(Signal::TERM);
            client.wait(Duration::from_secs(10));
        }
        _ => client.signal(Signal::KILL),
    }
}

/// Takes a pipe of a child.
fn taken<T>(pipe: fn(&mut Child) -> Option<T>, of: &mut Guard) -> T {
    pipe(of.child()).expect("a pipe")
}
