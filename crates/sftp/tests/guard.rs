//! The ways past a file server: its own streams, pipes of others, and the files of `/proc`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::*;
use sandgate_sftp::codec::*;
use sandgate_sftp::vfs::OpenFlags;

const SERVER: &str = env!("CARGO_BIN_EXE_sandgate-sftp-server");
const APPEND: OpenFlags = WRITE.with(OpenFlags::APPEND);
/// What a forger would like to see in the audit trail.
const FORGED: &[u8] = b"removed 0 /etc/passwd\n";

fn size(size: u64) -> Attrs {
    Attrs { size: Some(size), ..Attrs::default() }
}

fn mode(mode: u32) -> Attrs {
    Attrs { mode: Some(mode), ..Attrs::default() }
}

#[test]
fn a_pipe_without_a_name_is_not_opened() {
    let (from, to) = std::io::pipe().unwrap();
    let mut client = Client::new();
    for number in [from.as_raw_fd(), to.as_raw_fd()] {
        let path = format!("/proc/self/fd/{number}").into_bytes();
        for flags in [READ, WRITE, APPEND, APPEND.with(OpenFlags::CREATE), NEW] {
            assert_eq!(client.open(&path, flags), Err(Status::PERMISSION_DENIED), "{flags:?}");
        }
        for attrs in [mode(0o666), Attrs { times: Some((1, 1)), ..Attrs::default() }] {
            let answer = client.call(Request::Setstat { id: 1, path: &path, attrs });
            assert_eq!(answer.status(), Status::PERMISSION_DENIED, "{attrs:?}");
        }
    }
    assert_eq!(client.recorded(), [""; 0]);
}

#[test]
fn the_files_of_proc_are_for_reading() {
    for mut client in [Client::new(), Client::rooted(Path::new("/"))] {
        for path in [&b"/proc/self/mem"[..], b"/proc/self/comm", b"/proc/thread-self/comm"] {
            for flags in [WRITE, APPEND, NEW, READ.with(WRITE), READ.with(OpenFlags::TRUNCATE)] {
                assert_eq!(client.open(path, flags), Err(Status::PERMISSION_DENIED), "{flags:?}");
            }
            for attrs in [size(0), mode(0o666), Attrs { times: Some((1, 1)), ..Attrs::default() }] {
                let answer = client.call(Request::Setstat { id: 1, path, attrs });
                assert_eq!(answer.status(), Status::PERMISSION_DENIED, "{attrs:?}");
            }
        }
        let handle = client.open(b"/proc/self/comm", READ).unwrap();
        assert!(client.read(&handle, 0, 100).unwrap().ends_with(b"\n"));
        assert_eq!(client.recorded(), [""; 0]);
    }
}

#[test]
fn what_an_open_file_of_another_process_is_called_in_proc_may_be_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(dir.path().join("f")).unwrap();
    std::fs::remove_file(dir.path().join("f")).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes();
    let mut client = Client::new();
    let handle = client.open(&path, READ.with(WRITE)).unwrap();
    assert_eq!(client.write(&handle, 0, b"saved"), Status::OK);
    assert_eq!(client.read(&handle, 0, 100).unwrap(), b"saved");
}

#[test]
fn a_named_pipe_is_written_as_before_unless_it_is_the_servers_own() {
    let dir = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let path = dir.path().join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Both sides, so that neither opening waits.
        let file = OpenOptions::new().read(true).write(true).custom_flags(0o4000).open(&path).unwrap();
        (path, file)
    };
    let ((own, errors), (other, mut there)) = (made("own"), made("other"));
    let mut input = INIT.to_vec();
    for path in [&own, &other] {
        open(&mut input, path);
    }
    let mut child = start(Command::new(SERVER).arg("--audit"), Stdio::from(errors.try_clone().unwrap()));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&input).unwrap();
    // A thread opens what may wait, and another writes: each is answered once it is done.
    let mut stdout = child.stdout.take().unwrap();
    let mut reply = || {
        let mut length = [0; 4];
        stdout.read_exact(&mut length).unwrap();
        stdout.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize]).unwrap();
    };
    (0..3).for_each(|_| reply());
    input.clear();
    write_first(&mut input, 0, FORGED);
    stdin.write_all(&input).unwrap();
    reply();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut bytes = [0; 100];
    let n = there.read(&mut bytes).unwrap();
    assert_eq!(&bytes[..n], FORGED);
    let n = (&errors).read(&mut bytes).unwrap();
    let lines = String::from_utf8_lossy(&bytes[..n]).into_owned();
    assert!(!lines.contains("/own") && !lines.contains("removed") && lines.contains("/other"), "{lines}");
}

#[test]
fn a_file_that_the_server_says_its_lines_in_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    let file = OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
    let mut input = INIT.to_vec();
    for name in [path.as_path(), Path::new("/proc/self/fd/2")] {
        open(&mut input, name);
    }
    let path = path.to_str().unwrap().as_bytes();
    Request::Setstat { id: 3, path, attrs: size(0) }.encode(&mut input);
    write_first(&mut input, 0, FORGED);
    let mut child = start(Command::new(SERVER).arg("--audit"), Stdio::from(file));
    child.stdin.take().unwrap().write_all(&input).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(std::fs::read_to_string(dir.path().join("lines")).unwrap(), "");
}

/// Everything that a server says is read from its pipes, whose ends it can open anew under these names.
#[test]
fn no_audit_line_is_forged_through_the_servers_own_streams() {
    for path in ["/dev/stderr", "/proc/self/fd/2", "/proc/self/fd/1", "/proc/thread-self/fd/2", "/dev/fd/2"] {
        let mut input = INIT.to_vec();
        open(&mut input, Path::new(path));
        write_first(&mut input, 0, FORGED);
        let output = program(&["--audit"], &input);
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "through {path}");
        assert!(!output.stdout.windows(7).any(|it| it == b"removed"), "through {path}");
    }
}

#[test]
fn a_server_cannot_be_traced_by_its_user() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("server");
    std::fs::copy(SERVER, &program).unwrap();
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    }
    let mut child = start(&mut command, Stdio::inherit());
    child.stdin.as_mut().unwrap().write_all(INIT).unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    // The kernel gives the files of such a process to root.
    let owner = std::fs::metadata(format!("/proc/{}/mem", child.id())).unwrap().uid();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(owner, 0);
}

const INIT: &[u8] = b"\0\0\0\x05\x01\0\0\0\x03";

fn start(command: &mut Command, stderr: Stdio) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap()
}

fn program(args: &[&str], input: &[u8]) -> Output {
    let mut child = start(Command::new(SERVER).args(args), Stdio::piped());
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Appends an OPEN for appending.
fn open(input: &mut Vec<u8>, path: &Path) {
    let path = path.to_str().unwrap().as_bytes();
    Request::Open { id: 1, path, flags: APPEND, attrs: Attrs::default() }.encode(input);
}

/// Appends a WRITE to the handle that a server gives first.
fn write_first(input: &mut Vec<u8>, offset: u64, data: &[u8]) {
    Request::Write { id: 2, handle: &[0; 4], offset, data }.encode(input);
}
