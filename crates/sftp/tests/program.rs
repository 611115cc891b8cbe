//! The stand-alone program, with the stock client and without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::skip;

const SERVER: &str = env!("CARGO_BIN_EXE_sandgate-sftp-server");

/// Runs a batch of the stock client; `None`, and a skip, where there is none.
fn sftp(server: &str, batch: &str) -> Option<Output> {
    let child = Command::new("sftp")
        .args(["-q", "-D", server, "-b", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        skip("no sftp is installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

#[track_caller]
fn ok(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_stock_client_runs_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(dir.path().join("a"), &data).unwrap();
    std::fs::create_dir_all(dir.path().join("tree/x/y")).unwrap();
    std::fs::write(dir.path().join("tree/x/y/f"), "deep").unwrap();
    let batch = format!(
        "put {d}/a {d}/b\nget {d}/b {d}/c\nput -pR {d}/tree {d}/tree2\nget -R {d}/tree2 {d}/tree3\nmkdir {d}/new\n\
         rename {d}/b {d}/new/b\nln -s b {d}/new/l\nln {d}/new/b {d}/new/h\ncp {d}/new/b {d}/new/copy\nchmod 600 {d}/new/b\n\
         ls -la {d}/new\ndf {d}\nrm {d}/new/h\n-rmdir {d}/new\ncd {d}\npwd\n"
    );
    // The client of OpenSSH 9.2 has no `cp` yet in some builds: run without it then.
    let Some(output) = sftp(SERVER, &batch.replace(&format!("cp {d}/new/b {d}/new/copy\n"), "")) else {
        return;
    };
    let stdout = ok(output);
    for file in ["c", "new/b", "new/l"] {
        assert!(std::fs::read(dir.path().join(file)).unwrap() == data, "{file}");
    }
    assert_eq!(std::fs::read(dir.path().join("tree3/x/y/f")).unwrap(), b"deep");
    assert!(stdout.contains("-rw-------") && stdout.contains("lrwxrwxrwx"), "{stdout}");
    assert!(stdout.contains("Remote working directory: "), "{stdout}");
    assert!(!dir.path().join("new/h").exists());
}

/// Debian's package of OpenSSH's scripts has none on resumed transfers.
#[test]
fn a_transfer_is_resumed_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(at("whole"), &data).unwrap();
    // What is there is not compared, so other bytes tell that only the rest was moved.
    let begun = vec![b'-'; 400_000];
    let expected = [&begun[..], &data[begun.len()..]].concat();
    for (direction, target) in [("reput", "up"), ("reget", "down"), ("put -a", "up-a"), ("get -a", "down-a")]
    {
        std::fs::write(at(target), &begun).unwrap();
        let Some(output) =
            sftp(SERVER, &format!("lcd {0}\ncd {0}\n{direction} whole {target}\n", dir.path().display()))
        else {
            return;
        };
        ok(output);
        assert!(std::fs::read(at(target)).unwrap() == expected, "{direction}");
    }
    // A target that is longer than its source is not touched, and is an error, as with any server.
    std::fs::write(at("longer"), [&data[..], b"more"].concat()).unwrap();
    for direction in ["reput", "reget"] {
        let batch = format!("lcd {0}\ncd {0}\n{direction} whole longer\n", dir.path().display());
        let Some(output) = sftp(SERVER, &batch) else { return };
        assert!(!output.status.success(), "{direction}");
        assert_eq!(std::fs::metadata(at("longer")).unwrap().len(), data.len() as u64 + 4, "{direction}");
    }
}

#[test]
fn errors_have_the_words_that_people_know() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    for (line, words) in [
        (format!("get {d}/none"), "not found"),
        (format!("rm {d}/none"), "No such file or directory"),
        (format!("mkdir {d}/f"), "Failure"),
        (format!("cd {d}/f"), "is not a directory"),
    ] {
        let Some(output) = sftp(SERVER, &line) else { return };
        assert!(!output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(words), "{line}: {stderr}");
    }
    let Some(output) = sftp(&format!("{SERVER} -R"), &format!("rm {d}/f")) else { return };
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
}

#[test]
fn another_users_files_are_denied() {
    let dir = tempfile::tempdir().unwrap();
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("server");
    std::fs::copy(SERVER, &program).unwrap();
    std::fs::write(dir.path().join("mine"), "x").unwrap();
    std::fs::set_permissions(dir.path().join("mine"), PermissionsExt::from_mode(0o600)).unwrap();
    let d = dir.path().to_str().unwrap();
    let server = format!("setpriv --reuid=65534 --regid=65534 --clear-groups {d}/server");
    for line in [
        format!("get {d}/mine /tmp/x"),
        format!("put {SERVER} {d}/new"),
        format!("rm {d}/mine"),
        format!("chmod 777 {d}/mine"),
    ] {
        let Some(output) = sftp(&server, &line) else { return };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && stderr.to_lowercase().contains("permission denied"),
            "{line}: {stderr}"
        );
    }
}

#[test]
fn a_full_disk_fails_the_write_and_keeps_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let script = dir.path().join("server");
    std::fs::create_dir(dir.path().join("small")).unwrap();
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs -o size=1m tmpfs {d}/small && exec {SERVER}'\n"
        ),
    )
    .unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("big"), vec![1; 3 << 20]).unwrap();
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success()) {
        return skip("no unshare, or not allowed to make a mount namespace for a small file system");
    }
    let batch = format!(
        "-put {d}/big {d}/small/big\nls {d}/small\nrm {d}/small/big\nput {script} {d}/small/ok\nls -l {d}/small\n",
        script = script.display()
    );
    let Some(output) = sftp(&format!("{}", script.display()), &batch) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("Failure") || stderr.contains("write remote"), "{stderr}");
    assert!(ok(output).contains("/small/ok"));
}

fn program(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(SERVER)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that says no at once does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

const INIT: &[u8] = b"\0\0\0\x05\x01\0\0\0\x03";

#[test]
fn the_end_of_input_ends_the_program_well_after_all_replies() {
    let output = program(&[], &[INIT, b"\0\0\0\x0a\x10\0\0\0\x01\0\0\0\x01/"].concat());
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(output.stdout.windows(5).any(|w| w == b"\x68\0\0\0\x01"));
    assert!(program(&[], b"").status.success());
    assert!(program(&[], &INIT[..3]).status.success());
    assert_eq!(program(&[], b"\xff\xff\xff\xff").status.code(), Some(11));
    assert_eq!(program(&[], b"\0\0\0\x0a\x10\0\0\0\x01\0\0\0\x01/").status.code(), Some(255));
}

#[test]
fn a_reader_that_is_gone_ends_the_program_well() {
    let mut child = Command::new(SERVER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut to = child.stdin.take().unwrap();
    to.write_all(INIT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn options_are_those_of_openssh_and_others_are_told() {
    let ok = |args: &[&str]| program(args, INIT).status.success();
    assert!(ok(&[
        "-e",
        "-l",
        "debug3",
        "-f",
        "AUTH",
        "-u",
        "077",
        "-d",
        "/",
        "-P",
        "remove",
        "-p",
        "open,read"
    ]));
    assert!(ok(&["-eRldebug3", "-u027"]) && ok(&["-c", "anything", "else"]) && ok(&["--", "host", "-x"]));
    for (args, words) in [
        (&["-x"][..], "unknown option -x"),
        (&["--file"], "unknown option --file"),
        (&["-u", "888"], "invalid umask"),
        (&["-l", "loud"], "invalid log level"),
        (&["-d"], "-d needs a value"),
        (&["-P", "a", "-P", "b"], "-P is given twice"),
        (&["--root", "/nonexistent"], "root directory cannot be opened"),
    ] {
        let output = program(args, b"");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{args:?}");
    }
    let list = program(&["-Q", "requests"], b"").stdout;
    assert!(list.starts_with(b"open\nclose\nread\n") && list.ends_with(b"users-groups-by-id\n"));
}

#[test]
fn the_umask_and_the_audit_lines_are_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let mut input = INIT.to_vec();
    open(&mut input, &path);
    let output = program(&["-u", "077", "--audit"], &input);
    assert!(output.status.success());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = String::from_utf8(output.stderr).unwrap();
    assert_eq!(lines, format!("opened 0 {0}\nwrote 0 {0} 0\n", path.display()));
}

/// Appends an OPEN for writing.
fn open(input: &mut Vec<u8>, path: &Path) {
    let path = path.to_str().unwrap().as_bytes();
    input.extend((1 + 4 + 4 + path.len() as u32 + 8).to_be_bytes());
    input.extend(b"\x03\0\0\0\x01");
    input.extend((path.len() as u32).to_be_bytes());
    input.extend(path);
    input.extend(b"\0\0\0\x1a\0\0\0\0");
}

#[test]
fn a_killed_session_leaves_no_other_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(SERVER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = INIT.to_vec();
    open(&mut input, &dir.path().join("f"));
    child.stdin.as_mut().unwrap().write_all(&input).unwrap();
    let mut reply = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut reply).unwrap();
    while !dir.path().join("f").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
