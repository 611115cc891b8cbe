//! Bulk data: byte-exact in both directions, under every cipher and through key exchanges that either side begins.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::time::Duration;

use sandgate_tests::{Feed, Options, Target, data, run};

/// Time for a GiB on a busy machine.
const LONG: Duration = Duration::from_secs(240);

/// Runs a script that prints one hash, and compares it with that of the generator's own output.
#[track_caller]
fn same_hash(target: &Target, script: &str, generator: &str) {
    let output = run(&mut target.script(script), Feed::Null, LONG);
    let expected = run(&mut target.script(&format!("{generator} | sha256sum")), Feed::Null, LONG).ok();
    assert_eq!(output.ok(), expected, "{script}\n{}", output.errors());
}

/// Number of key exchanges in the client's debug output.
fn exchanges(target: &Target) -> usize {
    let text = std::fs::read_to_string(target.dir().join("debug")).unwrap();
    text.matches("SSH2_MSG_NEWKEYS received").count()
}

#[test]
fn all_byte_values_both_ways() {
    let target = Target::start();
    let bytes = data::all_values(8 << 20);
    let output = target.exec_with("cat", bytes.clone());
    output.exits(0);
    assert!(output.stdout == bytes, "cat gave back something else");
    let output = target.exec_with("sha256sum", bytes.clone());
    assert_eq!(output.ok().split(' ').next().unwrap(), data::sha256(&bytes));
    assert!(output.stderr.is_empty());
}

#[test]
fn every_cipher_carries_data_through_rekeys() {
    let target = Target::start();
    let generator = data::shell_generator(12 << 20);
    let ciphers = [
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes128-ctr",
        "aes256-ctr",
    ];
    for cipher in ciphers {
        for mac in ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"] {
            if mac.contains("512") && !cipher.ends_with("ctr") {
                continue;
            }
            let ssh = format!("$SSH -v -E $DIR/debug -c {cipher} -m {mac} -o RekeyLimit=1M");
            let _ = std::fs::remove_file(target.dir().join("debug"));
            same_hash(&target, &format!("{generator} | {ssh} box cat | sha256sum"), &generator);
            assert!(exchanges(&target) >= 8, "only {} key exchanges with {cipher}", exchanges(&target));
        }
    }
}

#[test]
fn key_exchange_methods() {
    let target = Target::start();
    for method in ["curve25519-sha256", "curve25519-sha256@libssh.org"] {
        assert_eq!(target.run_ssh(&["-o", &format!("KexAlgorithms={method}"), "box", "echo ok"]).ok(), "ok");
    }
    let refused = target.run_ssh(&[
        "-o",
        "LogLevel=INFO",
        "-o",
        "KexAlgorithms=diffie-hellman-group14-sha1",
        "box",
        "echo ok",
    ]);
    refused.exits(255);
    assert!(refused.errors().contains("no matching key exchange method"), "{}", refused.errors());
    // A client that would like compression gets on without.
    assert_eq!(target.run_ssh(&["-C", "box", "echo ok"]).ok(), "ok");
}

#[test]
fn heavy_one_gib_down_with_rekeys() {
    let target = Target::start();
    let generator = data::shell_generator(1 << 30);
    let script = format!("$SSH -v -E $DIR/debug -o RekeyLimit=16M box '{generator}' | sha256sum");
    same_hash(&target, &script, &generator);
    assert!(exchanges(&target) >= 50, "only {} key exchanges", exchanges(&target));
}

#[test]
fn heavy_one_gib_up_with_rekeys() {
    let target = Target::start();
    let generator = data::shell_generator(1 << 30);
    let script = format!("{generator} | $SSH -v -E $DIR/debug -o RekeyLimit=16M box sha256sum");
    same_hash(&target, &script, &generator);
    assert!(exchanges(&target) >= 50, "only {} key exchanges", exchanges(&target));
}

#[test]
fn heavy_rekeys_that_the_server_begins() {
    let target = Target::start_with(&Options { rekey_bytes: Some(16 << 20), ..Options::default() });
    let generator = data::shell_generator(1 << 30);
    let down = format!("$SSH -v -E $DIR/debug box '{generator}' | sha256sum");
    same_hash(&target, &down, &generator);
    assert!(exchanges(&target) >= 50, "only {} key exchanges down", exchanges(&target));
    std::fs::remove_file(target.dir().join("debug")).unwrap();
    let up = format!("{generator} | $SSH -v -E $DIR/debug box sha256sum");
    same_hash(&target, &up, &generator);
    assert!(exchanges(&target) >= 50, "only {} key exchanges up", exchanges(&target));
}

#[test]
fn heavy_both_ways_at_once_through_rekeys() {
    let target = Target::start_with(&Options { rekey_bytes: Some(4 << 20), ..Options::default() });
    let generator = data::shell_generator(256 << 20);
    let script = format!("{generator} | $SSH -v -E $DIR/debug -o RekeyLimit=5M box cat | sha256sum");
    same_hash(&target, &script, &generator);
    assert!(exchanges(&target) >= 50, "only {} key exchanges", exchanges(&target));
}

#[test]
fn a_late_reader_gets_it_all() {
    let target = Target::start();
    let generator = data::shell_generator(100 << 20);
    same_hash(&target, &format!("$SSH box '{generator}' | (sleep 3; sha256sum)"), &generator);
    same_hash(&target, &format!("{generator} | $SSH box cat | (sleep 3; sha256sum)"), &generator);
}

#[test]
fn a_late_command_gets_it_all() {
    let target = Target::start();
    let generator = data::shell_generator(50 << 20);
    same_hash(&target, &format!("{generator} | $SSH box 'sleep 3; sha256sum'"), &generator);
}

#[test]
fn output_after_the_end_of_input() {
    let target = Target::start();
    let generator = data::shell_generator(20 << 20);
    same_hash(&target, &format!("$SSH box 'cat >/dev/null; {generator}' </dev/null | sha256sum"), &generator);
}
