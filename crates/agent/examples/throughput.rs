//! CPU seconds per GiB through the agent, on passed pipes and in frames, each way.
//!
//! `cargo run --release -p sandgate-agent --example throughput -- PATH-TO-AGENT`. The host side counts as this process, the guest
//! side as the agent; the programs that make and eat the data are not counted.
#![allow(clippy::unwrap_used, reason = "a measurement; a failure should stop it")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use sandgate_guest::{ExecSpec, Guest, Program, Ready, UnixDial};

const GIB: usize = 1 << 30;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let binary = std::env::args().nth(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let mut agent = Command::new(binary)
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for (name, guest) in [
        ("passed", Guest::new(Arc::new(UnixDial::new(&socket)))),
        ("framed", Guest::framed_only(Arc::new(UnixDial::new(&socket)))),
    ] {
        for way in ["download", "upload"] {
            let (host, guest_cpu, start) = (cpu(std::process::id()), cpu(agent.id()), Instant::now());
            if way == "download" {
                download(&guest).await
            } else {
                upload(&guest).await
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
    agent.kill().unwrap();
    agent.wait().unwrap();
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
