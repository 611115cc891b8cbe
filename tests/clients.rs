//! Clients other than OpenSSH's: each opens sessions, runs a command with both output streams and an exit code, and moves 10 MB
//! each way, compared by hash.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::foreign::{installed, node, python};
use sandgate_tests::{Feed, Kind, Target, data, run};

const SIZE: usize = 10 << 20;
const BOTH: &str = "echo out; echo err >&2; exit 7";

/// Hash of what the far side generates.
fn download_hash() -> String {
    let output =
        run(Command::new("sh").args(["-c", &data::shell_generator(SIZE as u64)]), Feed::Null, DEADLINE);
    data::sha256(&output.stdout)
}

/// Runs a client script that prints the JSON of `clients/common.py`.
fn check_script(target: &Target, mut command: Command) {
    command.arg(target.port.to_string()).arg(&target.login);
    if target.kind() == Kind::Sshd {
        command.arg(target.key());
    }
    command.env("HOME", target.dir());
    let text = run(&mut command, Feed::Null, Duration::from_secs(120)).ok();
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"));
    assert_eq!(answer["code"], 7, "{answer}");
    assert_eq!(answer["stdout"], "out\n");
    assert_eq!(answer["stderr"], "err\n");
    assert_eq!(answer["upload_ok"], true, "the upload arrived differently");
    assert_eq!(answer["download"], download_hash(), "the download arrived differently");
}

/// Runs a command-line client; `make` gives the command for a far command.
fn check_command_line(make: impl Fn(&str) -> Command) {
    let output = run(&mut make(BOTH), Feed::Null, DEADLINE);
    output.exits(7);
    assert_eq!(output.text(), "out\n");
    assert!(output.errors().ends_with("err\n"), "{}", output.errors());
    let payload = data::random(3, SIZE);
    let output = run(&mut make("sha256sum"), Feed::Bytes(payload.clone()), DEADLINE);
    assert_eq!(output.ok().split(' ').next().unwrap(), data::sha256(&payload));
    let output = run(&mut make(&data::shell_generator(SIZE as u64)), Feed::Null, DEADLINE);
    output.exits(0);
    assert_eq!(data::sha256(&output.stdout), download_hash());
}

#[test]
fn paramiko() {
    let Some(command) = python("paramiko_client.py") else { return };
    check_script(&Target::start(), command);
}

#[test]
fn asyncssh() {
    let Some(command) = python("asyncssh_client.py") else { return };
    check_script(&Target::start(), command);
}

#[test]
fn libssh2() {
    let Some(command) = python("libssh2_client.py") else { return };
    check_script(&Target::start(), command);
}

#[test]
fn node_ssh2() {
    let Some(command) = node("node_client.js", "ssh2") else { return };
    check_script(&Target::start(), command);
}

#[test]
fn dropbear_dbclient() {
    if !installed(&[("dbclient", "dropbear-bin")]) {
        return;
    }
    let target = Target::start();
    let key = target.dir().join("dropbear");
    if target.kind() == Kind::Sshd {
        let mut convert = Command::new("dropbearconvert");
        run(convert.args(["openssh", "dropbear"]).arg(target.key()).arg(&key), Feed::Null, DEADLINE).ok();
    }
    check_command_line(|far| {
        let mut command = Command::new("dbclient");
        command.args(["-y", "-y", "-T", "-p", &target.port.to_string(), "-l", &target.login]);
        if target.kind() == Kind::Sshd {
            command.arg("-i").arg(&key);
        }
        command.args(["127.0.0.1", far]).env("HOME", target.dir());
        command
    });
}

/// The fingerprint of the server's ed25519 key.
fn fingerprint(target: &Target) -> String {
    target.exec("true").ok();
    let mut command = Command::new("ssh-keygen");
    let text = run(command.arg("-lf").arg(target.dir().join("known_hosts")), Feed::Null, DEADLINE).ok();
    text.split_whitespace().find(|word| word.starts_with("SHA256:")).expect("a fingerprint").to_owned()
}

#[test]
fn putty_plink() {
    if !installed(&[("plink", "putty-tools")]) {
        return;
    }
    let target = Target::start();
    let host_key = fingerprint(&target);
    let key = target.dir().join("id.ppk");
    if target.kind() == Kind::Sshd {
        let mut convert = Command::new("puttygen");
        run(convert.arg(target.key()).arg("-o").arg(&key), Feed::Null, DEADLINE).ok();
    }
    check_command_line(|far| {
        let mut command = Command::new("plink");
        command.args([
            "-ssh",
            "-batch",
            "-T",
            "-hostkey",
            &host_key,
            "-P",
            &target.port.to_string(),
            "-l",
            &target.login,
        ]);
        if target.kind() == Kind::Sshd {
            command.arg("-i").arg(&key);
        }
        command.args(["127.0.0.1", far]).env("HOME", target.dir());
        command
    });
}

struct AnyServer;

impl russh::client::Handler for AnyServer {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn russh_login(port: u16, user: &str, key: Option<&Path>) -> russh::client::Handle<AnyServer> {
    let config = Arc::new(russh::client::Config::default());
    let mut session = russh::client::connect(config, ("127.0.0.1", port), AnyServer).await.unwrap();
    let result = match key {
        Some(key) => {
            let key = Arc::new(russh::keys::load_secret_key(key, None).unwrap());
            session.authenticate_publickey(user, russh::keys::PrivateKeyWithHashAlg::new(key, None)).await
        }
        None => session.authenticate_none(user).await,
    };
    assert!(result.unwrap().success(), "login refused");
    session
}

async fn russh_run(
    session: &russh::client::Handle<AnyServer>,
    command: &str,
    input: &[u8],
) -> (u32, Vec<u8>, Vec<u8>) {
    let mut channel = session.channel_open_session().await.unwrap();
    channel.exec(true, command).await.unwrap();
    channel.data(input).await.unwrap();
    channel.eof().await.unwrap();
    let (mut code, mut stdout, mut stderr) = (None, Vec::new(), Vec::new());
    while let Some(message) = channel.wait().await {
        match message {
            russh::ChannelMsg::Data { data } => stdout.extend_from_slice(&data),
            russh::ChannelMsg::ExtendedData { data, ext: 1 } => stderr.extend_from_slice(&data),
            russh::ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
            _ => {}
        }
    }
    (code.expect("an exit status"), stdout, stderr)
}

#[test]
fn russh_client() {
    let target = Target::start();
    let key = (target.kind() == Kind::Sshd).then(|| target.key());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        let session = russh_login(target.port, &target.login, key.as_deref()).await;
        assert_eq!(russh_run(&session, BOTH, b"").await, (7, b"out\n".to_vec(), b"err\n".to_vec()));
        let payload = data::random(4, SIZE);
        let (_, answer, _) = russh_run(&session, "sha256sum", &payload).await;
        assert_eq!(String::from_utf8_lossy(&answer).split(' ').next().unwrap(), data::sha256(&payload));
        let (_, download, _) = russh_run(&session, &data::shell_generator(SIZE as u64), b"").await;
        assert_eq!(data::sha256(&download), download_hash());
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(90), work).await }).expect("in time");
}
