//! Whatever the door, and whoever asks for it: what is recorded of terminals, commands, files and forwards.

use std::os::unix::fs::PermissionsExt as _;

use sandgate_tests::client::DEADLINE;
use sandgate_tests::forward::Server;
use sandgate_tests::{Feed, Target, data, run, skip};
use serde_json::{Value, json};
use tungstenite::Message;

use super::page::Api;
use super::{ended, export, recorded, stream, totals};

/// That this passed, each way.
#[track_caller]
fn passed(end: &Value, directions: &[(&str, &[u8])]) {
    for (direction, bytes) in directions {
        assert_eq!(end[direction]["bytes"], bytes.len(), "{direction}: {end}");
        assert_eq!(end[direction]["sha256"], data::sha256(bytes), "{direction}: {end}");
    }
}

/// As by SSH.
#[test]
fn the_doors_of_browsers_and_programs_record_as_much() {
    let Some(target) = recorded("input = true") else { return };
    let gateway = target.gateway();
    let api = Api::new(gateway);
    let made = api.post("/api/v1/sandboxes/box/terminals", &json!({ "cols": 101, "rows": 37 }));
    let mut page = api.attach(made["ticket"].as_str().unwrap(), 101, 37);
    page.text("ready");
    page.says(&json!({ "type": "resize", "cols": 64, "rows": 20, "xpixel": 0, "ypixel": 0 }));
    page.types("echo re''ady.; printf '\\377\\000\\342\\202'; sleep 0.2; printf '\\254.'; seq 1 20000\r");
    page.sees("ready.");
    page.sees("20000\r\n");
    page.types("exit 4\r");
    assert_eq!(page.text("exit")["code"], 4);
    let recording = &ended(gateway, "terminal", 1)[0];
    assert!(export(gateway, recording, "raw") == page.output, "the recording is not what the page got");
    let text = String::from_utf8(export(gateway, recording, "v3")).unwrap();
    assert!(text.contains("\"cols\":101") && text.contains(", \"r\", \"64x20\"]"), "{text}");
    assert!(text.contains(", \"i\", ") && text.contains(", \"x\", \"4\"]"), "{text}");

    // One request, one answer.
    let input = "some input\n".repeat(100_000);
    let command = json!({ "command": "wc -c; echo err >&2; exit 5", "stdin": input });
    let (status, answer) = api.request("POST", "/api/v1/sandboxes/box/exec", Some(&command));
    assert_eq!((status, &answer["exit_code"]), (200, &json!(5)), "{answer}");
    let out = answer["stdout"]["data"].as_str().unwrap().as_bytes();
    let recording = &ended(gateway, "exec", 1)[0];
    let end = totals(gateway, recording);
    passed(&end, &[("in", input.as_bytes()), ("out", out), ("err", b"err\n")]);
    assert_eq!((&end["exit"], &recording["session"]), (&json!(5), &answer["session"]));

    // A stream.
    let (sent, key) = (data::random(11, 3_000_000), stream::key(&target, "user"));
    let mut socket = stream::begin(&target, &key, &json!({ "command": "cat; echo err >&2; exit 9" }));
    for piece in sent.chunks(100_000) {
        socket.send(Message::Binary(piece.to_vec().into())).unwrap();
    }
    stream::eof(&mut socket);
    let said = stream::rest(&mut socket);
    assert_eq!((said.exit()["code"].as_u64(), said.stdout == sent), (Some(9), true));
    let recording = &ended(gateway, "exec", 2)[0];
    let end = totals(gateway, recording);
    passed(&end, &[("in", &sent), ("out", &said.stdout), ("err", &said.stderr)]);
    assert_eq!(end["exit"], 9);
    let started = said.texts.iter().find(|text| text["type"] == "started").unwrap();
    assert_eq!(recording["session"], started["session"]);

    // The command line on the gateway's machine.
    let mut command = gateway.command(&["exec", "box", "--", "sh", "-c", "cat; echo err >&2; exit 7"]);
    let output = run(&mut command, Feed::Bytes(sent.clone()), DEADLINE);
    output.exits(7);
    let end = totals(gateway, &ended(gateway, "exec", 3)[0]);
    passed(&end, &[("in", &sent), ("out", &output.stdout), ("err", &output.stderr)]);
    assert_eq!(end["exit"], 7);
}

#[test]
fn commands_files_and_forwards_have_timelines() {
    let Some(target) = recorded("") else { return };
    let gateway = target.gateway();
    let input = b"some input\n".repeat(10_000);
    let output = target.exec_with("cat; echo err >&2; exit 9", input.clone());
    output.exits(9);
    let recording = &ended(gateway, "exec", 1)[0];
    let end = totals(gateway, recording);
    passed(&end, &[("in", &input), ("out", &output.stdout), ("err", b"err\n")]);
    assert_eq!(end["exit"], 9);
    // It is no terminal, and nobody is shown one.
    for args in [&["play"][..], &["export", "--format", "v2"], &["export", "--format", "raw"]] {
        let refused = gateway.cli(&[&["recording"], args, &[super::id(recording)]].concat());
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{args:?}: {refused:?}");
        assert_eq!(refused.errors().lines().count(), 1, "{args:?}: {}", refused.errors());
    }

    let mut batch =
        target.script("echo 'put /etc/hostname /tmp/copied' | sftp -q -b - -F $DIR/ssh_config box");
    run(&mut batch, Feed::Null, DEADLINE).exits(0);
    let end = totals(gateway, &ended(gateway, "sftp", 1)[0]);
    assert!(end["in"]["bytes"].as_u64() > Some(0) && end["out"]["bytes"].as_u64() > Some(0), "{end}");

    // Of scp it is known what it says: a line of what comes, the file, and a zero; and a zero for each of them from here.
    let file = target.dir().join("sent");
    std::fs::write(&file, &input).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let mut copy = target.script("scp -q -O -F $DIR/ssh_config -o User=$LOGIN $DIR/sent box:/tmp/got");
    copy.env("LOGIN", gateway.token("box", &["--scopes", "sftp"]).token);
    run(&mut copy, Feed::Null, DEADLINE).exits(0);
    let recording = &ended(gateway, "scp", 1)[0];
    let end = totals(gateway, recording);
    let said = [format!("C0640 {} sent\n", input.len()).as_bytes(), &input, b"\0"].concat();
    passed(&end, &[("in", &said), ("out", b"\0\0\0"), ("err", b"")]);
    assert_eq!(end["exit"], 0);

    let server = Server::start(&target, "echo", "0");
    let to = format!("localhost:{}", server.at);
    let output = run(&mut target.ssh(&["-W", &to, "box"]), Feed::Bytes(input.clone()), DEADLINE);
    assert!(output.stdout == input, "the forward lost something");
    let forward = &ended(gateway, "forward", 1)[0];
    passed(&totals(gateway, forward), &[("in", &input), ("out", &input)]);
    assert!(String::from_utf8(export(gateway, forward, "v3")).unwrap().contains(&to));
}

#[test]
fn a_token_asks_for_more_than_its_sandbox_and_never_for_less() {
    if skip::oracle_lacks("recordings") {
        return;
    }
    let target = Target::start();
    let gateway = target.gateway();
    gateway.create_sandbox("kept", &["--record", "terminal"]);
    gateway.start_sandbox("kept");
    let (mut terminals, mut commands) = (0, 0);
    for (sandbox, mode, terminal, command) in
        [("box", "off", 0, 0), ("box", "terminal", 1, 0), ("box", "all", 1, 1), ("kept", "off", 1, 0)]
    {
        let token = gateway.token(sandbox, &["--record", mode, "--label", "for the record"]);
        for args in [&["-tt", "box", "echo here."][..], &["box", "echo here."]] {
            let output = target.run_ssh(&[&["-l", &token.token], args].concat());
            assert_eq!(output.ok().trim_end(), "here.", "{sandbox} {mode}");
        }
        (terminals, commands) = (terminals + terminal, commands + command);
        let recordings = ended(gateway, "terminal", terminals);
        ended(gateway, "exec", commands);
        if terminal > 0 {
            let text = String::from_utf8(export(gateway, &recordings[0], "v3")).unwrap();
            assert!(text.contains("for the record") && !text.contains(&token.token), "{text}");
            assert_eq!(recordings[0]["sandbox"], sandbox);
        }
    }
    let wrong = gateway.cli(&["token", "create", "box", "--record", "everything"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
}
