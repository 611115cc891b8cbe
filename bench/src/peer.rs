//! The two ends of a forwarded connection: this program itself, once here and once as a command of the session.
//!
//! `peer listen|connect PORT give|take BYTES`: one TCP connection on loopback. The giver sends so many zeros and waits for the other's one
//! byte; the taker reads to the end and then sends it, so both know that all has arrived. At its end it prints `cpu SECONDS`, its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};

/// Bytes moved by one system call: large, so that the ends cost little beside what is measured.
const BLOCK: usize = 256 * 1024;

/// What an end does with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends.
    Give,
    /// Receives.
    Take,
}

impl Role {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Give => "give",
            Self::Take => "take",
        }
    }

    /// What the other end does.
    pub fn other(self) -> Self {
        match self {
            Self::Give => Self::Take,
            Self::Take => Self::Give,
        }
    }
}

/// Runs as a command; prints `ready` once somebody can connect.
pub fn run(args: &[String]) -> Result<()> {
    let [way, port, role, bytes] = args else { bail!("peer listen|connect PORT give|take BYTES") };
    let (port, bytes) = (port.parse::<u16>().context("PORT")?, bytes.parse::<u64>().context("BYTES")?);
    let role = match role.as_str() {
        "give" => Role::Give,
        "take" => Role::Take,
        other => bail!("{other} is neither give nor take"),
    };
    let stream = match way.as_str() {
        "listen" => {
            let listener = TcpListener::bind(("127.0.0.1", port))?;
            println!("ready");
            listener.accept()?.0
        }
        "connect" => TcpStream::connect(("127.0.0.1", port))?,
        other => bail!("{other} is neither listen nor connect"),
    };
    serve(stream, role, bytes)?;
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    println!("cpu {}.{:09}", spent.tv_sec, spent.tv_nsec);
    Ok(())
}

/// Does one end's part, to the end.
pub fn serve(mut stream: TcpStream, role: Role, bytes: u64) -> Result<()> {
    let mut block = vec![0_u8; BLOCK];
    match role {
        Role::Give => {
            let mut left = bytes;
            while left > 0 {
                let now = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                stream.write_all(&block[..now])?;
                left -= now as u64;
            }
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0_u8]).context("the other end did not say that it has all")?;
        }
        Role::Take => {
            let mut taken = 0;
            loop {
                match stream.read(&mut block)? {
                    0 => break,
                    n => taken += n as u64,
                }
            }
            if taken != bytes {
                bail!("{taken} of {bytes} bytes came");
            }
            stream.write_all(&[1])?;
        }
    }
    Ok(())
}
