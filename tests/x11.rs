//! X11 forwarding: a program on the far side reaches the user's display, with the cookie that it was given.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::forward::{Home, Near};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::until;
use sandgate_tests::{Feed, Kind, Options, Target, run, skip};

/// As a program with libX11: finds its cookie, connects to `$DISPLAY`, says who it is, and prints what the display says. With an
/// argument the cookie is another one.
const PROGRAM: &str = r#"
import os, socket, struct, sys
host, rest = os.environ["DISPLAY"].rsplit(":", 1)
number = rest.split(".")[0]
path = os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority")
data = open(path, "rb").read()
found = None
while data:
    family, data = struct.unpack(">H", data[:2])[0], data[2:]
    parts = []
    for _ in range(4):
        n = struct.unpack(">H", data[:2])[0]
        parts.append(data[2:2 + n]); data = data[2 + n:]
    if parts[1] in (b"", number.encode()): found = parts[2], parts[3]
name, cookie = found
if len(sys.argv) > 1: cookie = bytes(len(cookie))
pad = lambda b: b + bytes(-len(b) % 4)
s = socket.create_connection((host, 6000 + int(number)))
s.settimeout(20)
s.sendall(struct.pack("<BBHHHHH", 0x6c, 0, 11, 0, len(name), len(cookie), 0) + pad(name) + pad(cookie))
print(s.recv(100).decode(), flush=True)
"#;

/// What a program says when it comes; answered with `welcome`.
fn greet(mut program: Near) -> Vec<u8> {
    // Byte order, 11.0, a name of 18 bytes and a cookie of 16.
    let said = program.read(12 + 20 + 16).unwrap();
    program.write(b"welcome").unwrap();
    said
}

fn start() -> Option<Target> {
    let target = Target::start_with(&Options { x11: true, ..Options::default() });
    if target.kind() == Kind::Sshd && !std::path::Path::new("/usr/bin/xauth").exists() {
        skip::because("sshd needs xauth for X11");
        return None;
    }
    Some(target)
}

#[test]
fn a_program_reaches_the_display_with_its_cookie() {
    let Some(target) = start() else { return };
    let (home, name) = Home::display();
    let mut command = target.ssh(&["-Y", "box", &format!("python3 -c '{PROGRAM}'; python3 -c '{PROGRAM}'")]);
    let mut session = Guard::spawn(
        command.env("DISPLAY", &name).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()),
    );
    for _ in 0..2 {
        let said = greet(home.accept());
        assert_eq!(&said[..12], b"l\0\x0b\0\0\0\x12\0\x10\0\0\0");
        assert_eq!(&said[12..30], b"MIT-MAGIC-COOKIE-1");
    }
    let mut text = String::new();
    std::io::Read::read_to_string(session.child().stdout.as_mut().unwrap(), &mut text).unwrap();
    assert_eq!(text, "welcome\nwelcome\n");
}

/// The cookie that the server of the next test gives to programs that it shall not trust.
const UNTRUSTED: &str = "00112233445566778899aabbccddeeff";

/// `ssh -X` has `xauth` ask the display for a cookie of limited rights and life. Without a display that gives such, this stands in its place.
const XAUTH: &str = r#"#!/bin/sh
echo "$*" >>$0.log
case "$*" in
*generate*untrusted*) ;;
*list*) echo "any/unix:1  MIT-MAGIC-COOKIE-1  COOKIE" ;;
esac
"#;

#[test]
fn an_untrusted_program_gets_the_cookie_of_limited_rights_and_no_longer_than_that_lives() {
    let Some(target) = start() else { return };
    let xauth = target.dir().join("xauth");
    std::fs::write(&xauth, XAUTH.replace("COOKIE\"", &format!("{UNTRUSTED}\""))).unwrap();
    std::fs::set_permissions(&xauth, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (home, name) = Home::display();
    let program = format!("python3 -c '{PROGRAM}'");
    let script = format!("{program}; sleep 6; {program} 2>/dev/null; echo $?");
    // Debian's ssh trusts by itself.
    let mut command = target.ssh(&["-X", "-o", "ForwardX11Trusted=no", "-o", "ForwardX11Timeout=4s", "-o"]);
    command.arg(format!("XAuthLocation={}", xauth.display())).args(["box", &script]);
    let mut session = Guard::spawn(command.env("DISPLAY", &name).stdin(Stdio::null()).stdout(Stdio::piped()));
    let said = greet(home.accept());
    let cookie: String = said[32..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(cookie, UNTRUSTED);
    let mut text = String::new();
    std::io::Read::read_to_string(session.child().stdout.as_mut().unwrap(), &mut text).unwrap();
    // The second came too late: the client refuses its channel, and it is told nothing but the end.
    assert!(text.starts_with("welcome\n") && !text[8..].contains("welcome"), "{text}");
    assert_eq!(session.wait(Duration::from_secs(10)), Some(0), "{text}");
    let asked = std::fs::read_to_string(xauth.with_extension("log")).unwrap();
    assert!(asked.contains("generate") && asked.contains("untrusted"), "{asked}");
}

#[test]
fn a_wrong_cookie_does_not_reach_it() {
    let Some(target) = start() else { return };
    let (home, name) = Home::display();
    let mut command = target.ssh(&["-Y", "box", &format!("python3 -c '{PROGRAM}' wrong; echo $?")]);
    let output = run(command.env("DISPLAY", &name), Feed::Null, DEADLINE);
    assert!(!output.text().contains("welcome"), "{}", output.text());
    let Home::Tcp(listener) = home else { panic!("it is TCP") };
    listener.set_nonblocking(true).unwrap();
    // The client connects before it looks at the cookie; nothing of the program comes through.
    if let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        assert_eq!(Near::Tcp(stream).rest().unwrap_or_default(), b"");
    }
}

#[test]
fn only_sessions_that_ask_have_a_display_and_each_has_its_own() {
    let Some(target) = start() else { return };
    let (_home, name) = Home::display();
    assert_eq!(target.exec("echo \"[$DISPLAY]\"").ok(), "[]");
    let ask = || {
        let mut command = target.ssh(&["-Y", "box", "echo $DISPLAY; sleep 1000"]);
        let mut session =
            Guard::spawn(command.env("DISPLAY", &name).stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut line = [0; 15];
        std::io::Read::read_exact(session.child().stdout.as_mut().unwrap(), &mut line).expect("a display");
        (session, String::from_utf8_lossy(&line).into_owned())
    };
    let (_one, first) = ask();
    let (_two, second) = ask();
    assert!(
        first.starts_with("localhost:1") && second.starts_with("localhost:1") && first != second,
        "{first} {second}"
    );
}

#[test]
fn nothing_is_left_when_the_session_ends() {
    let Some(target) = start() else { return };
    if target.kind() == Kind::Sshd {
        return skip::because("sshd leaves the cookie in ~/.Xauthority");
    }
    let (_home, name) = Home::display();
    let look = "stat -c '%a %F' $XAUTHORITY ${XAUTHORITY%/*}; ls -d /tmp/xauth-* | wc -l; grep -c ' 0A ' /proc/net/tcp";
    let mut command = target.ssh(&["-Y", "box", look]);
    let output = run(command.env("DISPLAY", &name), Feed::Null, DEADLINE);
    assert_eq!(output.ok(), "600 regular file\n700 directory\n1\n1", "{}", output.errors());
    let mut killed = target.ssh(&["-Y", "box", "echo up; sleep 1000"]);
    let mut killed = Guard::spawn(killed.env("DISPLAY", &name).stdin(Stdio::null()).stdout(Stdio::piped()));
    std::io::Read::read_exact(killed.child().stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
    drop(killed);
    let left = || target.exec("ls -d /tmp/xauth-* 2>/dev/null | wc -l; grep -c ' 0A ' /proc/net/tcp").text();
    assert!(until(DEADLINE, || left() == "0\n0\n"), "{}", left());
}

#[test]
fn without_the_scope_there_is_no_display_and_the_session_works() {
    if skip::oracle_lacks("scopes") {
        return;
    }
    let target = Target::start();
    let (_home, name) = Home::display();
    let token = target.gateway().token("box", &["--scopes", "shell,exec"]).token;
    let user = format!("User={token}");
    let mut command = target.ssh(&["-Y", "-o", &user, "-o", "LogLevel=INFO", "box", "echo \"[$DISPLAY]\""]);
    let output = run(command.env("DISPLAY", &name), Feed::Null, DEADLINE);
    assert_eq!(output.ok(), "[]");
    assert!(output.errors().contains("X11 forwarding request failed"), "{}", output.errors());
    assert!(target.log().contains("does not have the scope"), "{}", target.log());
}
