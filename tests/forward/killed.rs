//! Clients that are killed while everything that forwards is in use: nothing is left on either side.

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::agent::Agent;
use sandgate_tests::client::DEADLINE;
use sandgate_tests::forward::{Home, Near, Server, descriptors};
use sandgate_tests::process::{Guard, parent, resident};
use sandgate_tests::wait::{free_port, in_parallel, scaled, until};
use sandgate_tests::{Kind, Target, skip};

use super::socks;

/// Clients at once.
const AT_ONCE: usize = 4;
/// Where the shim is among the counted.
const SHIM: usize = 1;
/// A shim lets go of the connection of a listener that has ended when the next one begins. Those of the last clients remain: each had a port and a
/// display.
const KEPT: u64 = 2 * AT_ONCE as u64;
/// What memory may differ by, in bytes, of gateway, shim and agent: allocators keep some of what was used once.
const GROWTH: [u64; 3] = [8 << 20, 2 << 20, 2 << 20];

/// What the session of such a client runs, with the path and port of its two listeners as arguments. One visitor of a listener has said something and
/// waits, another sends what nobody reads, a program waits for the user's agent, and one has a display.
const INSIDE: &str = r#"
import os, socket, sys
def tcp(port): return socket.create_connection(("127.0.0.1", port))
def unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s
visitor = unix(sys.argv[1])
visitor.sendall(b"v")
agent = unix(os.environ["SSH_AUTH_SOCK"])
agent.sendall(b"\0\0\0\1\x0b")
cookie = open(os.environ["XAUTHORITY"], "rb").read()[-16:]
display = tcp(6000 + int(os.environ["DISPLAY"].split(":")[1].split(".")[0]))
display.sendall(b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0" + cookie)
flood = tcp(int(sys.argv[2]))
print("there", flush=True)
while True: flood.sendall(b"f" * 65536)
"#;

/// Servers in the sandbox.
struct Servers {
    echo: Server,
    hold: Server,
    flood: Server,
}

/// Takes a connection of a forwarded agent up to its first request, which is left without an answer. Stock `ssh` binds it to its session before, and waits for the answer.
fn take_request(home: &Home) -> Near {
    let mut connection = home.accept();
    let length = connection.read(4).unwrap();
    connection.read(u32::from_be_bytes(length.try_into().unwrap()) as usize).unwrap();
    connection.write(b"\0\0\0\x01\x05").unwrap();
    assert_eq!(connection.read(5).unwrap(), b"\0\0\0\x01\x0b");
    connection
}

/// One client, from its start to its end.
fn kill_in_the_middle(target: &Target, own: &Agent, servers: &Servers, number: usize) {
    let at = |what: &str| target.dir().join(format!("{what}{number}"));
    let near = ["echo", "hold", "flood"].map(|it| at(it).display().to_string());
    let (visited, visited_port) = Home::tcp();
    let agent = Home::Unix(UnixListener::bind(at("agent")).unwrap());
    let (display, display_name) = Home::display();
    let proxy = free_port().to_string();
    // Ports of the sandbox's own network.
    let (far_socket, far_port) = (format!("/tmp/r{number}"), 10_000 + number);

    let mut command = target.ssh(&["-Y", "-o", "ExitOnForwardFailure=yes", "-D", &proxy]);
    command.arg("-o").arg(format!("IdentityAgent={}", own.socket().display()));
    command.arg("-o").arg(format!("ForwardAgent={}", at("agent").display()));
    for (near, server) in near.iter().zip([&servers.echo, &servers.hold, &servers.flood]) {
        command.arg("-L").arg(format!("{near}:127.0.0.1:{}", server.at));
    }
    for far in [far_port.to_string(), far_socket.clone()] {
        command.arg("-R").arg(format!("{far}:127.0.0.1:{visited_port}"));
    }
    command.args(["box", &format!("exec python3 -IS -c '{INSIDE}' {far_socket} {far_port}")]);
    command.env("DISPLAY", display_name).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut client = Guard::spawn(&mut command);
    // First of all: stock `ssh` does nothing else until its agent has answered.
    let _asked = take_request(&agent);

    let mut connections = near.map(|near| Near::connect(&near));
    connections[0].write(b"x").unwrap();
    assert_eq!(connections[0].read(1).unwrap(), b"x");
    assert_eq!(connections[2].read(1).unwrap(), b"x");
    if number.is_multiple_of(2) {
        connections[1].end();
    }
    let mut proxied = Near::connect(&proxy);
    assert_eq!(socks(&mut proxied, "localhost", servers.flood.at.parse().unwrap()).unwrap()[..2], [5, 0]);
    assert_eq!(proxied.read(1).unwrap(), b"x");

    client.child().stdout.as_mut().unwrap().read_exact(&mut [0; 6]).expect("the programs inside");
    let mut visitors = [visited.accept(), visited.accept()];
    let said = visitors.each_mut().map(|visitor| visitor.read(1).unwrap()[0]);
    assert!(said == *b"vf" || said == *b"fv", "{said:?}");
    let mut program = display.accept();
    assert_eq!(program.read(1).unwrap(), b"l");
    if number.is_multiple_of(3) {
        program.write(b"welcome").unwrap();
        visitors[0].end();
    }
    // kill -9
    drop(client);
}

/// What there is when nothing happens.
#[derive(Debug)]
struct Held {
    /// Of gateway, shim and agent.
    descriptors: [usize; 3],
    /// Of the gateway.
    tasks: u64,
    connections: u64,
    sessions: u64,
    agent_sockets: u64,
    agent_connections: u64,
    /// Sockets of the sandbox that are not merely remembered (`TIME_WAIT`), its processes, and its files in /tmp.
    inside: [usize; 3],
}

impl Held {
    fn now(target: &Target, processes: [u32; 3]) -> Self {
        // First, since the count inside is a session itself.
        let [tasks, connections, sessions, agent_sockets, agent_connections] =
            ["tasks", "connections", "sessions", "agent_sockets", "agent_connections"]
                .map(|name| target.gateway().metric(&format!("sandgate_{name}")));
        let count = "cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix | grep -vc ' 06 0'
            ls -d /proc/[0-9]* | wc -l; ls -A /tmp | wc -l";
        let text = target.exec(count).ok();
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
        Self {
            inside: std::array::from_fn(|_| numbers.next().unwrap()),
            descriptors: processes.map(descriptors),
            tasks,
            connections,
            sessions,
            agent_sockets,
            agent_connections,
        }
    }

    fn is_within(&self, before: &Self) -> bool {
        let numbers = |it: &Self| {
            let counts = [it.tasks, it.connections, it.sessions, it.agent_sockets, it.agent_connections];
            it.descriptors.iter().chain(&it.inside).map(|it| *it as u64).chain(counts).collect::<Vec<_>>()
        };
        numbers(self).iter().zip(numbers(before)).enumerate().all(|(index, (now, before))| {
            let kept = if index == SHIM { KEPT } else { 0 };
            *now <= before + kept
        })
    }
}

#[test]
fn heavy_killed_clients_leave_nothing() {
    let target = Target::start();
    if target.kind() == Kind::Sshd {
        return skip::because("it counts what is inside the sandbox");
    }
    let servers = Servers {
        echo: Server::start(&target, "echo", "0"),
        hold: Server::start(&target, "hold", "0"),
        flood: Server::start(&target, "flood", "0"),
    };
    // What `ssh` uses for itself: without an agent of its own it would forward none.
    let own = Agent::start(&target);
    let agent = target.gateway().agent_pid("box");
    let processes = [target.pid(), parent(agent), agent];
    let settled = |before: &Held| {
        let mut now = Held::now(&target, processes);
        let back = until(DEADLINE, || {
            now = Held::now(&target, processes);
            now.is_within(before)
        });
        assert!(back, "{before:#?} became {now:#?}");
    };
    let kill = |numbers: std::ops::Range<usize>| {
        in_parallel(AT_ONCE, numbers.len(), |index| {
            kill_in_the_middle(&target, &own, &servers, numbers.start + index);
            Ok(())
        });
    };
    // Whatever is made once has been made by the first of all.
    kill(0..1);
    std::thread::sleep(Duration::from_secs(3));
    let before = Held::now(&target, processes);
    let (warm, all) = (scaled(40), scaled(200));
    kill(1..warm);
    settled(&before);
    let memory = processes.map(resident);
    kill(warm..all);
    settled(&before);
    for ((before, now), growth) in memory.into_iter().zip(processes.map(resident)).zip(GROWTH) {
        assert!(
            now <= before + growth,
            "{memory:?} bytes in gateway, shim and agent, then {:?}",
            processes.map(resident)
        );
    }
}
