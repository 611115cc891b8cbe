//! The process that holds one sandbox: parent of its init, owner of its listening socket, writer of its state.

use std::ffi::OsString;
use std::process::ExitCode;

/// The `shim` subcommand, without the program's name and the word `shim`. Synchronous, and to be called before any thread
/// is started: it forks.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let _ = args.into_iter().count();
    ExitCode::FAILURE
}
