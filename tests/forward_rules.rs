//! What tokens and sandboxes allow to be forwarded, and who is told what when they do not. The gateway's own; sshd has these rules per host.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests report by panicking")]

use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::forward::{Near, Server};
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{free_port, until};
use sandgate_tests::{Feed, Options, Output, Target, run, skip};

/// `ssh ARGS… box` with another token.
fn with_token(target: &Target, token: &str, args: &[&str]) -> Output {
    let user = format!("User={token}");
    run(&mut target.ssh(&[&["-o", &user, "-o", "LogLevel=DEBUG"], args].concat()), Feed::Null, DEADLINE)
}

/// What the client is told when it asks for a connection to that place.
fn asked(target: &Target, token: &str, place: &str) -> String {
    let output = with_token(target, token, &["-W", place, "box"]);
    assert_eq!(output.code, 255, "{place}: {}", output.text());
    output.errors()
}

#[test]
fn permit_open_of_a_token_is_held_and_named() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let server = Server::start(&target, "echo", "0");
    let rule = format!("127.0.0.1:{}", server.at);
    let token = target.gateway().token("box", &["--permit-open", &rule]).token;
    let output = with_token(&target, &token, &["-W", &rule, "box"]);
    assert_eq!(output.code, 0, "{}", output.errors());
    for other in [format!("localhost:{}", server.at), "127.0.0.1:1".to_owned()] {
        let text = asked(&target, &token, &other);
        assert!(
            text.contains(&format!(
                "administratively prohibited: PermitOpen of the token allows {rule} only."
            )),
            "{other}: {text}"
        );
    }
    // The session itself works, and so does the other direction.
    let output = with_token(
        &target,
        &token,
        &["-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes", "box", "echo in"],
    );
    assert_eq!(output.ok(), "in");
    // As with sshd, sockets are not permitted by rules for ports.
    let near = free_port().to_string();
    let log = target.dir().join("log");
    let user = format!("User={token}");
    let forward = format!("{near}:/tmp/some.sock");
    let mut command = target.ssh(&["-o", &user, "-o", "LogLevel=INFO", "-N", "-L", &forward, "box"]);
    let _client = Guard::spawn(command.stderr(std::fs::File::create(&log).unwrap()));
    assert_eq!(Near::connect(&near).rest().unwrap_or_default(), b"");
    let told =
        || std::fs::read_to_string(&log).unwrap().contains("PermitSocketOpen of the token allows nothing.");
    assert!(until(DEADLINE, told), "{}", std::fs::read_to_string(&log).unwrap());
}

#[test]
fn rules_of_the_sandbox_hold_everybody() {
    if skip::oracle_lacks("sandboxes") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    gateway.create_sandbox("strict", &["--permit-open", "*:7", "--permit-listen", "none"]);
    let token = gateway.token("strict", &["--permit-open", "db:7", "--permit-open", "127.0.0.1:8"]).token;
    // Both allow: it is tried.
    assert!(asked(&target, &token, "db:7").contains("connect failed"));
    assert!(asked(&target, &token, "127.0.0.1:8").contains("PermitOpen of the sandbox allows *:7 only."));
    assert!(
        asked(&target, &token, "other:7").contains("PermitOpen of the token allows db:7, 127.0.0.1:8 only.")
    );
    let output = with_token(
        &target,
        &token,
        &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "box", "true"],
    );
    assert_eq!(output.code, 255);
    assert!(output.errors().contains("PermitListen of the sandbox allows nothing."), "{}", output.errors());
    // A key has no rules of its own; the sandbox's hold it.
    gateway.cli(&["key", "add", "me", &target.key().with_extension("pub").display().to_string()]).ok();
    assert!(asked(&target, "strict", "127.0.0.1:8").contains("PermitOpen of the sandbox"));
    let shown = gateway.json(&["sandbox", "inspect", "strict"]);
    assert_eq!(shown["forward"]["permit_open"][0], "*:7");
    assert!(gateway.cli(&["sandbox", "inspect", "strict"]).ok().contains("permit-listen none"));
}

#[test]
fn permit_listen_is_held() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let (allowed, other) = (free_port(), free_port());
    let token = target.gateway().token("box", &["--permit-listen", &allowed.to_string()]).token;
    for (port, code) in [(allowed, 0), (other, 255), (0, 255)] {
        let forward = format!("{port}:127.0.0.1:1");
        let output =
            with_token(&target, &token, &["-o", "ExitOnForwardFailure=yes", "-R", &forward, "box", "true"]);
        assert_eq!(output.code, code, "{port}: {}", output.errors());
        let told = output.errors().contains(&format!("PermitListen of the token allows {allowed} only."));
        assert_eq!(told, code != 0, "{}", output.errors());
    }
    assert!(target.log().contains("listener refused"));
}

#[test]
fn sockets_have_rules_of_their_own() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let token = target
        .gateway()
        .token("box", &["--permit-socket-listen", "/tmp/mine/*", "--permit-socket-open", "/tmp/one"])
        .token;
    target.exec("mkdir /tmp/mine /tmp/mine/sub").ok();
    for (path, code) in
        [("/tmp/mine/a", 0), ("/tmp/b", 255), ("/tmp/mine/../b", 255), ("/tmp/mine/sub/c", 255)]
    {
        let forward = format!("{path}:127.0.0.1:1");
        let output =
            with_token(&target, &token, &["-o", "ExitOnForwardFailure=yes", "-R", &forward, "box", "true"]);
        assert_eq!(output.code, code, "{path}: {}", output.errors());
    }
}

#[test]
fn without_the_scope_nothing_is_forwarded_and_the_session_works() {
    if skip::oracle_lacks("scopes") {
        return;
    }
    let target = Target::start();
    let token = target.gateway().token("box", &["--scopes", "shell,exec"]).token;
    let text = asked(&target, &token, "127.0.0.1:1");
    assert!(text.contains("does not have the scope \"forward\""), "{text}");
    let output = with_token(
        &target,
        &token,
        &["-R", "0:127.0.0.1:1", "-L", &format!("{}:127.0.0.1:1", free_port()), "box", "echo in"],
    );
    assert_eq!(output.ok(), "in");
    assert!(output.errors().contains("scope \"forward\""), "{}", output.errors());
}

#[test]
fn a_rule_that_cannot_be_read_is_refused_with_its_name() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let refused = |args: &[&str], says: &str| {
        let output = target.gateway().cli(&[&["token", "create", "box"], args].concat());
        assert!(output.code != 0 && output.errors().contains(says), "{args:?}: {}", output.errors());
    };
    refused(&["--permit-open", "db"], "PermitOpen: \"db\" is not HOST:PORT");
    refused(&["--permit-open", "d*:80"], "PermitOpen");
    refused(&["--permit-listen", "0"], "PermitListen");
    refused(&["--permit-socket-open", "run/x"], "PermitSocketOpen");
    refused(&["--agent-key", "MD5:00"], "SHA256:");
    refused(&["--permit-open", "any", "--permit-open", "db:1"], "PermitOpen");
    refused(&["--scopes", "shell", "--permit-open", "db:1"], "scope \"forward\"");
    let many: Vec<String> = (1..=129).map(|port| format!("db:{port}")).collect();
    let many: Vec<&str> = many.iter().flat_map(|rule| ["--permit-open", rule]).collect();
    refused(&many, "at most 128");
    let output = target.gateway().cli(&["sandbox", "create", "other", "--permit-open", "db"]);
    assert!(output.code != 0 && output.errors().contains("PermitOpen"), "{}", output.errors());
}

#[test]
fn rules_are_shown_and_outlive_the_gateway() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let key = format!("SHA256:{}", "A".repeat(43));
    let mut target = Target::start_with(&Options {
        create_args: ["--permit-open", "*:7"].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    let created = target
        .gateway()
        .token("box", &["--permit-open", "db:7", "--permit-listen", "any", "--agent-key", &key]);
    let shown = |target: &Target| {
        let list = target.gateway().json(&["token", "ls"]);
        let token =
            list.as_array().unwrap().iter().find(|token| token["id"] == created.id.as_str()).unwrap().clone();
        token["forward"].clone()
    };
    let before = shown(&target);
    assert_eq!(before["permit_open"][0], "db:7");
    assert_eq!(before["permit_listen"][0], "any");
    assert_eq!(before["agent_keys"][0], key.as_str());
    assert!(before.get("permit_socket_open").is_none());
    target.gateway_mut().kill();
    target.gateway_mut().start_again();
    assert_eq!(shown(&target), before);
    assert!(asked(&target, &created.token, "db:8").contains("PermitOpen of the token"));
    assert!(asked(&target, &target.login.clone(), "db:8").contains("PermitOpen of the sandbox"));
}

#[test]
fn a_revoked_token_ends_its_forwards() {
    if skip::oracle_lacks("tokens") {
        return;
    }
    let target = Target::start();
    let server = Server::start(&target, "echo", "0");
    let token = target.gateway().token("box", &[]);
    let near = free_port().to_string();
    let forward = format!("{near}:127.0.0.1:{}", server.at);
    let user = format!("User={}", token.token);
    let mut command = target.ssh(&["-o", &user, "-N", "-L", &forward, "-R", "0:127.0.0.1:1", "box"]);
    let mut client = Guard::spawn(command.stdin(Stdio::null()).stderr(Stdio::null()));
    let mut connection = Near::connect(&near);
    connection.write(b"x").unwrap();
    assert_eq!(connection.read(1).unwrap(), b"x");
    let listening = || target.exec("grep -c ' 0A ' /proc/net/tcp").text().trim().parse::<usize>().unwrap();
    assert!(until(DEADLINE, || listening() == 2), "the server and the forward: {}", listening());
    target.gateway().cli(&["token", "revoke", &token.id]).ok();
    assert_eq!(connection.rest().unwrap_or_default(), b"", "the forward lives on");
    assert_eq!(client.wait(Duration::from_secs(5)), Some(255));
    assert!(until(DEADLINE, || listening() == 1), "still {} listeners", listening());
}
