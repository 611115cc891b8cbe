//! CPU seconds per GiB through the agent, on passed pipes and in frames, each way, for programs and for connections.
//!
//! `cargo run --release -p sandgate-agent --example throughput -- PATH-TO-AGENT`. The host side counts as this process, the guest
//! side as the agent; the programs that make and eat the data (for connections: a second process of this one) are not counted.
#![allow(clippy::unwrap_used, reason = "a measurement; a failure should stop it")]

use std::io::{BufRead, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use sandgate_guest::{Connection, ConnectionReady, DialSpec, ExecSpec, Guest, Program, Ready, UnixDial};

const GIB: usize = 1 << 30;
/// The argument that makes this the other end of the connections.
const SERVE: &str = "serve";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let binary = std::env::args().nth(1).unwrap();
    if binary == SERVE {
        serve();
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let agent = Command::new(binary)
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let exe = std::env::current_exe().unwrap();
    let mut server = Command::new(exe).arg(SERVE).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    for (name, guest) in [
        ("passed", Guest::new(Arc::new(UnixDial::new(&socket)))),
        ("framed", Guest::framed_only(Arc::new(UnixDial::new(&socket)))),
    ] {
        for way in ["download", "upload", "from-tcp", "to-tcp"] {
            let (host, guest_cpu, start) = (cpu(std::process::id()), cpu(agent.id()), Instant::now());
            match way {
                "download" => download(&guest).await,
                "upload" => upload(&guest).await,
                "from-tcp" => from_tcp(&guest, port).await,
                _ => to_tcp(&guest, port).await,
            }
            println!(
                "{name:7} {way:9} host {:.3} s/GiB  agent {:.3} s/GiB  wall {:.3} s",
                cpu(std::process::id()) - host,
                cpu(agent.id()) - guest_cpu,
                start.elapsed().as_secs_f64()
            );
        }
    }
    let guest = Guest::new(Arc::new(UnixDial::new(&socket)));
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        let mut process = guest.exec(ExecSpec::new(Program::Argv(vec![b"true".to_vec()]))).await.unwrap();
        while !matches!(process.output.ready().await, Ready::Exit(_)) {
            let _ = process.output.try_read(&mut [0; 64]);
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("exec of true, from dial to exit: median {:?}", times[100]);
    for mut child in [agent, server] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Tells its port; then, for each connection, reads to the end and answers with what was asked for: nothing, or a GiB.
fn serve() -> ! {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        let mut buf = vec![0; 256 * 1024];
        while stream.read(&mut buf).unwrap() > 0 {}
        if first == *b"g" {
            for _ in 0..GIB / buf.len() {
                stream.write_all(&buf).unwrap();
            }
        }
    }
}

async fn from_tcp(guest: &Guest, port: u16) {
    let Connection { mut input, mut output } = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    input.write_all(b"g").await.unwrap();
    input.shutdown().await.unwrap();
    let mut buf = vec![0; 32 * 1024];
    let mut got = 0;
    while let ConnectionReady::Data = output.ready().await {
        while let Ok(n) = output.try_read(&mut buf) {
            got += n;
        }
    }
    assert_eq!(got, GIB);
}

async fn to_tcp(guest: &Guest, port: u16) {
    let Connection { mut input, mut output } = guest.dial(DialSpec::tcp("127.0.0.1", port)).await.unwrap();
    let data = vec![0; 32 * 1024];
    for _ in 0..GIB / data.len() {
        input.write_all(&data).await.unwrap();
    }
    input.shutdown().await.unwrap();
    while let ConnectionReady::Data = output.ready().await {
        let _ = output.try_read(&mut [0; 64]);
    }
}

async fn download(guest: &Guest) {
    let spec = ExecSpec::new(Program::Command(format!("head -c {GIB} /dev/zero").into_bytes()));
    let mut process = guest.exec(spec).await.unwrap();
    // What one SSH packet takes.
    let mut buf = vec![0; 32 * 1024];
    let mut got = 0;
    loop {
        match process.output.ready().await {
            Ready::Stdout => {
                while let Ok(n) = process.output.try_read(&mut buf) {
                    got += n;
                }
            }
            Ready::Exit(_) => break,
            Ready::Stderr => drop(process.output.try_read(&mut buf)),
            Ready::LinkLost(e) => panic!("{e}"),
        }
    }
    assert_eq!(got, GIB);
}

async fn upload(guest: &Guest) {
    let spec = ExecSpec::new(Program::Command(b"exec cat > /dev/null".to_vec()));
    let mut process = guest.exec(spec).await.unwrap();
    let data = vec![0; 32 * 1024];
    for _ in 0..GIB / data.len() {
        process.input.write_all(&data).await.unwrap();
    }
    process.input.shutdown().await.unwrap();
    while !matches!(process.output.ready().await, Ready::Exit(_)) {
        let _ = process.output.try_read(&mut [0; 64]);
    }
}

/// User and system time of a process, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    f64::from(ticks) / 100.0
}
