//! The algorithms on offer, as an auditor sees them, and the prefix truncation attack ("Terrapin", CVE-2023-48795).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use sandgate_tests::client::{DEADLINE, write_config};
use sandgate_tests::raw::codec;
use sandgate_tests::{Feed, Kind, Target, paths, run, skip};
use serde_json::Value;

/// Every failure and warning of an `ssh-audit -j` report, as `category algorithm level: text`.
fn findings(report: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for category in ["kex", "key", "enc", "mac"] {
        for entry in report[category].as_array().into_iter().flatten() {
            for level in ["fail", "warn"] {
                for text in entry["notes"][level].as_array().into_iter().flatten() {
                    let (name, text) =
                        (entry["algorithm"].as_str().unwrap_or("?"), text.as_str().unwrap_or("?"));
                    found.push(format!("{category} {name} {level}: {text}"));
                }
            }
        }
    }
    for note in report["cves"].as_array().into_iter().flatten() {
        found.push(format!("cve {}", note["name"].as_str().unwrap_or("?")));
    }
    // Printed as warnings too; they hold figures and lists that change, so the vulnerability they speak of is their name.
    for note in report["additional_notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let name =
            note.split(|it: char| !it.is_ascii_alphanumeric() && it != '-').find(|it| it.starts_with("CVE-"));
        found.push(format!("note {}", name.unwrap_or(note)));
    }
    found
}

/// The findings that are known, each with its reason; SECURITY.md lists the same.
fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(paths::workspace().join("tests/ssh_audit_allow.json")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let entries = list["allow"].as_array().unwrap();
    assert!(
        entries.iter().all(|it| it["reason"].as_str().is_some_and(|reason| reason.len() > 20)),
        "an entry has no reason"
    );
    entries.iter().map(|it| it["finding"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn ssh_audit_finds_nothing_that_is_not_listed() {
    let auditor = paths::venv("ssh-audit");
    if !auditor.exists() {
        skip::because("ssh-audit is not installed: run tests/setup.sh");
        return;
    }
    let target = Target::start();
    let mut command = Command::new(auditor);
    let port = target.port.to_string();
    let output = run(command.args(["-j", "-p", &port, "127.0.0.1"]), Feed::Null, Duration::from_secs(90));
    let report: Value =
        serde_json::from_str(&output.text()).unwrap_or_else(|err| panic!("{err}: {output:?}"));
    assert!(report["kex"].as_array().is_some_and(|it| !it.is_empty()), "{report}");
    let allowed = allowed();
    let unlisted: Vec<_> = findings(&report).into_iter().filter(|it| !allowed.contains(it)).collect();
    if target.kind() == Kind::Sshd {
        // The control: Debian's defaults are known not to pass, so the search does find things.
        assert!(unlisted.iter().any(|it| it.contains("fail")), "nothing found in sshd's defaults: {report}");
        return;
    }
    assert!(unlisted.is_empty(), "{unlisted:#?}");
    // The note on the rate of connections comes only if the auditor made enough of them in its time.
    let stale = |it: &&String| !findings(&report).contains(it) && *it != "note CVE-2002-20001";
    let stale: Vec<_> = allowed.iter().filter(stale).collect();
    assert!(stale.is_empty(), "listed, but not found any more: {stale:#?}");
    let security = std::fs::read_to_string(paths::workspace().join("SECURITY.md")).unwrap_or_default();
    for entry in &allowed {
        let name = entry.split(' ').nth(1).unwrap();
        assert!(security.contains(name), "SECURITY.md does not give the reason for {entry}");
    }
}

/// What the one in the middle does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Passes everything on.
    None,
    /// Puts an IGNORE in front of the client's first key exchange message, so that the server counts one too many.
    IgnoreToServer,
    /// Puts an IGNORE in front of the server's, and takes the first packet after its NEWKEYS (EXT_INFO) out.
    IgnoreToClientWithoutExtInfo,
}

/// A connection through a man in the middle; returns the port to connect to.
fn middle(server: u16, attack: Attack) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || relay(client, server, attack == Attack::IgnoreToServer, false));
            let attacked = attack == Attack::IgnoreToClientWithoutExtInfo;
            std::thread::spawn(move || relay(server_too, client_too, attacked, attacked));
        }
    });
    port
}

/// Passes one direction on, adding an IGNORE right after the KEXINIT if asked, and taking out the packet after NEWKEYS.
fn relay(mut from: TcpStream, mut to: TcpStream, inject: bool, take_out: bool) {
    let mut step = || -> std::io::Result<()> {
        let mut byte = [0];
        loop {
            from.read_exact(&mut byte)?;
            to.write_all(&byte)?;
            if byte == *b"\n" {
                break;
            }
        }
        let mut first = true;
        loop {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let mut packet = vec![0; u32::from_be_bytes(length) as usize];
            from.read_exact(&mut packet)?;
            to.write_all(&length)?;
            to.write_all(&packet)?;
            if first && inject {
                // Length 12: padding length 6, IGNORE, an empty string, 6 bytes of padding.
                to.write_all(&[0, 0, 0, 12, 6, codec::IGNORE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
            }
            first = false;
            if packet[1] == codec::NEWKEYS {
                break;
            }
        }
        if take_out {
            // chacha20-poly1305 hides the length; EXT_INFO is the server's first packet and comes in one write of its own.
            let mut chunk = [0; 64 * 1024];
            from.set_read_timeout(Some(Duration::from_secs(5)))?;
            let _ = from.read(&mut chunk)?;
            from.set_read_timeout(None)?;
        }
        std::io::copy(&mut from, &mut to)?;
        Ok(())
    };
    let _ = step();
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn a_truncated_prefix_ends_the_connection() {
    let target = Target::start();
    for attack in [Attack::None, Attack::IgnoreToServer, Attack::IgnoreToClientWithoutExtInfo] {
        let config = target.dir().join("middle_config");
        write_config(&config, middle(target.port, attack), &target.login, &target.key());
        for cipher in ["chacha20-poly1305@openssh.com", "aes128-ctr", "aes128-gcm@openssh.com"] {
            let mut command = sandgate_tests::client::ssh(&config);
            command.args(["-c", cipher, "-m", "hmac-sha2-256-etm@openssh.com"]);
            command.args(["-o", "KexAlgorithms=curve25519-sha256", "-o", "StrictHostKeyChecking=no", "-o"]);
            command.arg("UserKnownHostsFile=/dev/null").args(["box", "echo in"]);
            let output = run(&mut command, Feed::Null, DEADLINE);
            if attack == Attack::None {
                assert_eq!(output.ok(), "in", "the relay itself does not work");
            } else {
                assert_eq!(output.code, 255, "the attack went unnoticed with {cipher}");
                assert!(output.stdout.is_empty());
            }
        }
    }
}

#[test]
fn strict_key_exchange_is_offered() {
    let target = Target::start();
    let mut command = target.ssh(&["-vvv", "box", "true"]);
    let output = run(&mut command, Feed::Null, DEADLINE);
    let text = output.errors();
    assert!(text.contains("kex-strict-s-v00@openssh.com"), "strict key exchange is not offered");
    assert!(text.contains("will use strict KEX ordering"), "the client does not use it");
    let peer = text.split("peer server KEXINIT proposal").nth(1).expect("the server's proposal");
    let methods: Vec<&str> =
        peer.lines().find_map(|line| line.split("KEX algorithms: ").nth(1)).unwrap().split(',').collect();
    assert!(methods.contains(&"curve25519-sha256"), "{methods:?}");
    if target.kind() == Kind::Gateway {
        assert_eq!(methods[0], "mlkem768x25519-sha256", "post-quantum first");
        assert!(
            !peer.contains("-sha1") && !peer.contains("ecdh-sha2-nistp") && !peer.contains("-cbc"),
            "{peer}"
        );
    }
}
