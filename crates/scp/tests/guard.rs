//! The ways past a file server, in the old protocol: its own streams and the files of `/proc`.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sandgate-scp");

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs a command line with all that the client says.
fn talk(options: &[&str], line: &str, client: &[u8]) -> Output {
    let mut child = start(Command::new(PROGRAM).arg("--audit").args(options).args(["--command", line]));
    child.stdin.take().unwrap().write_all(client).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn no_audit_line_is_forged_through_the_servers_own_streams() {
    for path in ["/dev/stderr", "/proc/self/fd/2", "/proc/self/fd/1"] {
        let output = talk(&[], &format!("scp -t {path}"), b"C0644 22 x\nremoved 0 /etc/passwd\n\0");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "through {path}");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(answer.contains("Permission denied") && !answer.contains("passwd"), "{path}: {answer:?}");
    }
}

#[test]
fn the_files_of_proc_are_for_reading() {
    for options in [&[][..], &["--root", "/"]] {
        for path in ["/proc/self/mem", "/proc/self/comm"] {
            let output = talk(options, &format!("scp -t {path}"), b"C0644 1 x\nx\0");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{path}");
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(answer.contains("Permission denied"), "{path}: {answer:?}");
        }
        let output = talk(options, "scp -f /proc/self/comm", b"\0\0\0");
        assert!(output.stdout.starts_with(b"C0644 0 comm\n"), "{output:?}");
    }
}

#[test]
fn a_server_cannot_be_traced_by_its_user() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("server");
    std::fs::copy(PROGRAM, &program).unwrap();
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    }
    let mut child = start(command.args(["-t", "/"]));
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    // The kernel gives the files of such a process to root.
    let owner = std::fs::metadata(format!("/proc/{}/mem", child.id())).unwrap().uid();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(owner, 0);
}
