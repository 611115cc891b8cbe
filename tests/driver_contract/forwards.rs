//! Forwards of ports and sockets, and the user's agent.

use std::sync::mpsc;

use sandgate_tests::agent::Agent;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::data::{random, sha256};
use sandgate_tests::forward::{Home, Near, PATIENCE, Server, visitor};
use sandgate_tests::wait::{free_port, scaled};
use sandgate_tests::{Feed, run};

use crate::ground::Ground;
use crate::report::Behaviour;

pub const ALL: &[Behaviour] = &[
    ("-L to a port, with half-closes", local_port),
    ("-L to a Unix socket", local_socket),
    ("-R of a port", remote_port),
    ("-R of a Unix socket", remote_socket),
    ("-W to a refused port says so", refused),
    ("-W to a port", stdio_forward),
    ("agent: ssh-add -l 100 times", agent_list),
    ("agent: 20 at once", agent_at_once),
    ("agent: sign", agent_sign),
];

fn local(ground: &Ground, at: &str) {
    let server = Server::start(&ground.target, "collect", at);
    let far = if at == "0" { format!("127.0.0.1:{}", server.at) } else { server.at.clone() };
    let near = free_port().to_string();
    let option = format!("{near}:{far}");
    let _master = ground.target.master_with(&["-o", "ExitOnForwardFailure=yes", "-L", &option]);
    let bytes = random(3, 4 << 20);
    let mut near = Near::connect(&near);
    near.write(&bytes).unwrap();
    near.end();
    let answer = String::from_utf8(near.rest().unwrap()).unwrap();
    assert_eq!(answer, format!("{} {}", bytes.len(), sha256(&bytes)));
}

fn local_port(ground: &mut Ground) {
    local(ground, "0");
}

fn local_socket(ground: &mut Ground) {
    local(ground, "/tmp/far.sock");
}

fn remote(ground: &Ground, home: Home, far: &str, near: &str) {
    let option = format!("{far}:{near}");
    let _master = ground.target.master_with(&["-o", "ExitOnForwardFailure=yes", "-R", &option]);
    let (arrived, visits) = mpsc::channel();
    std::thread::spawn(move || arrived.send(home.accept()));
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| ground.exec(&visitor(far)));
        let mut visit = visits.recv_timeout(PATIENCE).expect("nobody came");
        assert_eq!(visit.rest().unwrap(), b"hello");
        visit.write(b"welcome").unwrap();
        visit.end();
        assert_eq!(answer.join().unwrap().ok(), "welcome");
    });
}

fn remote_port(ground: &mut Ground) {
    let (home, port) = Home::tcp();
    remote(ground, home, &free_port().to_string(), &format!("127.0.0.1:{port}"));
}

fn remote_socket(ground: &mut Ground) {
    let path = ground.place("home.sock");
    remote(ground, Home::unix(&path), "/tmp/remote.sock", path.to_str().unwrap());
}

fn refused(ground: &mut Ground) {
    let place = format!("127.0.0.1:{}", free_port());
    let output = ground.target.run_ssh(&["-o", "LogLevel=INFO", "-W", &place, "box"]);
    assert_eq!(output.code, 255);
    assert!(output.errors().contains("connect failed: Connection refused"), "{}", output.errors());
}

fn stdio_forward(ground: &mut Ground) {
    let server = Server::start(&ground.target, "collect", "0");
    let place = format!("localhost:{}", server.at);
    let output =
        run(&mut ground.target.ssh(&["-W", &place, "box"]), Feed::Bytes(b"twelve bytes".to_vec()), DEADLINE);
    assert!(output.ok().starts_with("12 "), "{}", output.text());
}

fn agent_list(ground: &mut Ground) {
    let agent = Agent::start(&ground.target);
    let fingerprint = agent.add_new_key("listed");
    let count = scaled(100);
    let script = format!("i=0; while [ $i -lt {count} ]; do ssh-add -l || exit 1; i=$((i+1)); done");
    let text = agent.exec(&ground.target, &script).ok();
    let right = text.lines().filter(|line| line.contains(&fingerprint)).count();
    assert_eq!(right, count);
}

fn agent_at_once(ground: &mut Ground) {
    let agent = Agent::start(&ground.target);
    let fingerprint = agent.add_new_key("crowd");
    let script = "for i in $(seq 20); do ssh-add -l & done; wait";
    let text = agent.exec(&ground.target, script).ok();
    assert_eq!(text.lines().filter(|line| line.contains(&fingerprint)).count(), 20, "{text}");
}

fn agent_sign(ground: &mut Ground) {
    let agent = Agent::start(&ground.target);
    agent.add_new_key("signer");
    let script = "set -e; ssh-add -L >k.pub; echo text >t; rm -f t.sig; ssh-keygen -q -Y sign -n git -f k.pub t 2>/dev/null; \
                  ssh-keygen -Y check-novalidate -n git -s t.sig <t";
    let text = agent.exec(&ground.target, script).ok();
    assert!(text.starts_with("Good \"git\" signature"), "{text}");
}
