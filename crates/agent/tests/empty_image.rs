//! An image that holds nothing but the agent. Needs root for chroot; without it the test says so and checks nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::*;
use sandgate_guest::{DialSpec, ExecSpec, Guest, GuestError, ListenSpec, NetworkFailure, Program, UnixDial};

/// Copies the test agent and the libraries that it has mapped (the released one is static and needs none).
fn make_image(root: &Path) {
    let probe = Agent::start();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", probe.child.id())).unwrap();
    let mut files: Vec<&str> =
        maps.lines().filter_map(|l| l.split_whitespace().nth(5)).filter(|f| f.starts_with('/')).collect();
    files.sort_unstable();
    files.dedup();
    // The loader is named in the binary by this path.
    files.push("/lib64/ld-linux-x86-64.so.2");
    for file in files.into_iter().filter(|f| f.contains(".so")) {
        let to = root.join(&file[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_sandgate-agent"), root.join("agent")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_is_one_clear_line() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: chroot needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make_image(dir.path());
    let mut child = Command::new("chroot")
        .arg(dir.path())
        .args(["/agent", "--listen", "unix:/a.sock"])
        .env("LD_LIBRARY_PATH", "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let socket = dir.path().join("a.sock");
    eventually("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    for guest in
        [Guest::new(Arc::new(UnixDial::new(&socket))), Guest::framed_only(Arc::new(UnixDial::new(&socket)))]
    {
        let out = run(&guest, ExecSpec::new(Program::Shell)).await;
        assert_eq!(
            (out.err().as_str(), out.code()),
            ("sandgate: no shell found in this image (tried bash, ash, sh)\n", 127)
        );
        let out = run(&guest, command("ls -l")).await;
        let line = "sandgate: no shell found in this image (tried bash, ash, sh): cannot run ls -l\n";
        assert_eq!((out.err().as_str(), out.code(), out.stdout.len()), (line, 127, 0));
        let out = run(&guest, ExecSpec::new(Program::Argv(vec![b"ls".to_vec()]))).await;
        assert_eq!((out.err().as_str(), out.code()), ("ls: command not found\n", 127));
        // No devpts: a terminal is refused, with the reason.
        let error = guest.exec(with_pty(command("ls"))).await.err().unwrap();
        assert!(
            matches!(&error, GuestError::Refused { reason: 4, text } if text.contains("/dev/ptmx")),
            "{error:?}"
        );
    }
    // No /tmp, /run or /dev/shm: the socket for a forwarded agent goes to the home.
    let guest = Guest::new(Arc::new(UnixDial::new(&socket)));
    let listener = guest.listen(ListenSpec::agent_socket()).await.unwrap();
    let path = String::from_utf8(listener.path().to_vec()).unwrap();
    assert!(path.trim_start_matches('/').starts_with("ssh-"), "{path}");
    let there = dir.path().join(path.trim_start_matches('/'));
    assert!(there.exists());
    drop(listener);
    eventually("socket and directory are removed", || !there.parent().unwrap().exists()).await;
    // The resolver is the agent itself, and says no in an image without any file of names.
    let error = guest.dial(DialSpec::tcp("nowhere.invalid", 1)).await.err().unwrap();
    assert!(matches!(&error, GuestError::Network { kind: NetworkFailure::NameNotFound, .. }), "{error:?}");
    // A login whose home is missing gets sshd's words.
    std::fs::create_dir_all(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/passwd"), "ann:x:1000:1000::/home/ann:/bin/zsh\n").unwrap();
    let mut spec = ExecSpec::new(Program::Argv(vec![b"ls".to_vec()]));
    spec.user = Some(b"ann".to_vec());
    let out = run(&Guest::new(Arc::new(UnixDial::new(&socket))), spec).await;
    let want =
        "Could not chdir to home directory /home/ann: No such file or directory\nls: command not found\n";
    assert_eq!((out.err().as_str(), out.code()), (want, 127));
    child.kill().unwrap();
    child.wait().unwrap();
}
