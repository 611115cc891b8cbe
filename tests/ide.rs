//! The way in of an IDE, by its known steps (VS Code Remote-SSH): `ssh -T -D PORT host sh` with an install script on standard input, then
//! connections to the server that the script has started, through the SOCKS port or through a forwarded socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests report by panicking"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use sandgate_tests::Target;
use sandgate_tests::process::Guard;
use sandgate_tests::wait::{free_port, until};

const PATIENCE: Duration = Duration::from_secs(20);

/// The server of the IDE: gives back what it reads on any number of connections, and says first which request it was.
const SERVER: &str = r#"
import os, socket, sys, threading
where = sys.argv[1]
if where == "port":
    listener = socket.create_server(("127.0.0.1", 0))
    name = str(listener.getsockname()[1])
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen(64)
    name = where
with open("token.new", "w") as out:
    out.write(name)
os.rename("token.new", "token")
def serve(c):
    while data := c.recv(1 << 16):
        c.sendall(data)
    c.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// The client of the IDE: its script goes in, its answers come out, and it stays for as long as the window is open.
struct Window {
    client: Guard,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Window {
    fn open(target: &Target, options: &[&str]) -> Self {
        let mut command = target.ssh(&[]);
        command.arg("-T").args(["-o", "ConnectTimeout=15", "-o", "ExitOnForwardFailure=yes"]).args(options);
        command.args(["box", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = Guard::spawn(&mut command);
        let input = client.child().stdin.take();
        let output = BufReader::new(client.child().stdout.take().unwrap());
        Self { client, input, output }
    }

    /// Sends a script and returns the bytes up to the line that ends it.
    fn run(&mut self, script: &str) -> String {
        let end = "8d1f5c0a: end";
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{script}\necho '{end}'\n").as_bytes()).unwrap();
        input.flush().unwrap();
        let mut text = String::new();
        loop {
            let from = text.len();
            assert!(self.output.read_line(&mut text).unwrap() > 0, "the shell has ended: {text}");
            if text[from..].trim_end() == end {
                text.truncate(from);
                return text;
            }
        }
    }

    /// Installs the server and starts it, detached as IDEs do, unless it runs already; returns where it listens.
    fn start_server(&mut self, directory: &str, place: &str) -> String {
        let script = format!(
            "set -e; umask 077; mkdir -p {directory}; cd {directory}\n\
             if [ ! -e token ]; then\n\
             cat > server.py <<'8d1f5c0a'\n{SERVER}\n8d1f5c0a\n\
             nohup python3 server.py {place} </dev/null >log 2>&1 & echo $! >pid\n\
             while [ ! -e token ]; do sleep 0.1; done\nfi\n\
             echo \"listeningOn==$(cat token)==\""
        );
        let text = self.run(&script);
        let start = text.find("listeningOn==").unwrap_or_else(|| panic!("no server: {text}"));
        text[start..].trim_end().split("==").nth(1).unwrap().to_owned()
    }
}

/// Connects to a port of the sandbox's loopback by SOCKS 5.
fn through_socks(proxy: u16, port: u16) -> TcpStream {
    let mut stream = connect(proxy);
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
    let mut request = vec![5, 1, 0, 1, 127, 0, 0, 1];
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..2], [5, 0], "refused");
    stream
}

fn connect(port: u16) -> TcpStream {
    let mut stream = None;
    until(PATIENCE, || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let stream = stream.expect("nobody listens here");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A request on a connection of its own, large enough for several packets, and its end.
fn talk(mut stream: TcpStream, number: u8) {
    let said = vec![number; 300_000];
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let said = &said;
        scope.spawn(move || {
            writer.write_all(said).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut heard).unwrap();
    });
    assert!(heard == said, "connection {number}: {} of {} bytes", heard.len(), said.len());
}

#[test]
fn an_ide_installs_its_server_and_reaches_it_through_the_socks_port() {
    let target = Target::start();
    let directory = &*format!("/tmp/ide-socks-{}", target.port);
    let (first, again) = (free_port(), free_port());
    let mut window = Window::open(&target, &["-D", &first.to_string()]);
    // Plain pipes: bare LF, nothing that the script has not said.
    assert_eq!(window.run("test -t 0 || echo no terminal; uname -s"), "no terminal\nLinux\n");
    let port: u16 = window.start_server(directory, "port").parse().unwrap();
    // One connection that lives as long as the window, and many short ones at once.
    let mut management = through_socks(first, port);
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || talk(through_socks(first, port), number));
        }
    });
    management.write_all(b"ping").unwrap();
    let mut pong = [0; 4];
    management.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"ping");
    // The shell is still there for more.
    assert_eq!(window.run("echo more"), "more\n");
    // The window is closed, and opened again: the server was detached on purpose and lives.
    drop((window.input.take(), management));
    assert_eq!(window.client.wait(PATIENCE), Some(0));
    drop(window);
    let mut window = Window::open(&target, &["-D", &again.to_string()]);
    assert_eq!(window.start_server(directory, "port"), port.to_string(), "the server was started anew");
    talk(through_socks(again, port), 7);
    window.run(&format!("kill $(cat {directory}/pid); rm -rf {directory}"));
}

#[test]
fn an_ide_reaches_its_server_through_a_forwarded_socket() {
    let target = Target::start();
    // Known before there is a server: the path is part of the command line.
    let directory = format!("/tmp/ide-{}", target.port);
    let (near, socket) = (free_port(), format!("{directory}/s.sock"));
    let mut window = Window::open(&target, &["-L", &format!("127.0.0.1:{near}:{socket}")]);
    assert_eq!(window.start_server(&directory, &socket), socket);
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || talk(connect(near), number));
        }
    });
    window.run(&format!("kill $(cat {directory}/pid); rm -rf {directory}"));
}
