//! The agent's own programs: file servers (SFTP, and the old protocol of scp), and the resolver of host names (see `resolve`).
//!
//! They run as children like any other program, with the user, groups and directory of the login, by executing the agent's own
//! file under another name. So a bare image has them, a fault or an attack in one of them reaches what its user reaches, and one
//! client never waits for another. Standard error carries a line for each change (`sandgate_sftp::audit`) for the gateway.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use sandgate_wire::message::{FileProtocol, Files};

/// The names under which the agent's file is a file server.
const SFTP: &[u8] = b"sftp-server";
const SCP: &[u8] = b"scp";
/// The name under which it resolves host names.
pub const RESOLVE: &[u8] = b"resolve";

/// Runs the program that this process was started as; `None` when it is the agent.
pub fn run_if_asked(args: &[OsString]) -> Option<ExitCode> {
    let (name, rest) = args.split_first()?;
    let rest = rest.iter().cloned();
    match name.as_bytes() {
        SFTP => Some(sandgate_sftp::program::main(rest)),
        SCP => Some(sandgate_scp::program::main(rest)),
        RESOLVE => Some(crate::resolve::main(rest)),
        _ => None,
    }
}

/// The arguments that start the file server, with its root directory as a whole path.
pub fn arguments(files: &Files, root: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut argv = vec![match &files.protocol {
        FileProtocol::Sftp => SFTP.to_vec(),
        FileProtocol::Scp(_) => SCP.to_vec(),
    }];
    argv.push(b"--audit".to_vec());
    if let Some(root) = root {
        argv.extend([b"--root".to_vec(), root]);
    }
    if files.read_only {
        argv.push(b"--read-only".to_vec());
    }
    if let FileProtocol::Scp(line) = &files.protocol {
        argv.extend([b"--command".to_vec(), line.clone()]);
    }
    argv
}

/// Where the agent's file is: always the file that runs, even when the image has another one in its place by now.
pub fn paths(exe: &OsStr) -> Vec<Vec<u8>> {
    // The second is for a sandbox without /proc.
    vec![b"/proc/self/exe".to_vec(), exe.as_bytes().to_vec()]
}

/// The path of the file that runs.
pub fn exe() -> OsString {
    std::env::current_exe().map(PathBuf::into_os_string).unwrap_or_default()
}

/// Whether the image leaves this command line to us: one of scp that needs no shell.
pub fn is_scp(line: &[u8]) -> bool {
    sandgate_scp::command::Command::parse(line).is_some()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn words(files: &Files) -> Vec<String> {
        let words = arguments(files, files.root.clone()).into_iter();
        words.map(|word| OsString::from_vec(word).to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn restrictions_come_before_the_command() {
        let sftp = Files { protocol: FileProtocol::Sftp, root: None, read_only: false };
        assert_eq!(words(&sftp), ["sftp-server", "--audit"]);
        let scp = Files {
            protocol: FileProtocol::Scp(b"scp -t -- --root".to_vec()),
            root: Some(b"/srv".to_vec()),
            read_only: true,
        };
        assert_eq!(
            words(&scp),
            ["scp", "--audit", "--root", "/srv", "--read-only", "--command", "scp -t -- --root"]
        );
    }
}
