//! What a forward costs at the least: one thread that reads from a socket, opens or seals AES-256-GCM, and writes to another socket. No SSH, no
//! windows, no other task.
//!
//! It is no server and has no budget. It says how much of a server's CPU time is the kernel's copying and the cipher, which every relay in user space
//! has to pay, on the machine and in the minute in which the others are measured.

use std::io::{IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::time::{ClockId, clock_gettime};

use crate::peer::Role;

/// Bytes sealed at once, as a client sends them.
const RECORD: usize = 32 * 1024;
/// Bytes that the tag adds.
const TAG: usize = 16;
/// Records taken by one system call.
const BATCH: usize = 8;

/// CPU seconds of the relay for so many MiB; `role` is that of the far end, the one that speaks in the clear.
pub fn once(role: Role, mib: u32) -> Result<f64> {
    let records = usize::try_from(mib)? * (1 << 20) / RECORD;
    let (front, back) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (to_front, to_back) = (front.local_addr()?, back.local_addr()?);
    let giver = thread::spawn(move || -> Result<()> {
        let mut stream = TcpStream::connect(to_front)?;
        let mut record = vec![0; RECORD];
        if role == Role::Take {
            key()?.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record).map_err(|_| failed())?;
        }
        for _ in 0..records {
            stream.write_all(&record)?;
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    });
    let taker = thread::spawn(move || -> Result<()> {
        let mut stream = TcpStream::connect(to_back)?;
        let mut block = vec![0; RECORD * BATCH];
        while stream.read(&mut block)? > 0 {}
        Ok(())
    });
    let relay = thread::spawn(move || -> Result<f64> {
        let (from, to) = (front.accept()?.0, back.accept()?.0);
        to.set_nodelay(true)?;
        let before = cpu();
        relay(from, to, role)?;
        Ok(cpu() - before)
    });
    let spent = join(relay)?;
    join(giver)?;
    join(taker)?;
    Ok(spent)
}

fn relay(mut from: TcpStream, mut to: TcpStream, role: Role) -> Result<()> {
    let key = key()?;
    let whole = if role == Role::Take { RECORD + TAG } else { RECORD };
    let mut buffer = vec![0; whole * BATCH];
    let mut have = 0;
    loop {
        let n = from.read(&mut buffer[have..])?;
        have += n;
        let used = have / whole * whole;
        if n == 0 {
            return Ok(());
        }
        let mut tags = Vec::new();
        for record in buffer[..used].chunks_mut(whole) {
            if role == Role::Take {
                key.open_in_place(nonce(), Aad::empty(), record).map_err(|_| failed())?;
            } else {
                let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), record);
                tags.push(tag.map_err(|_| failed())?);
            }
        }
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        for (n, record) in buffer[..used].chunks(whole).enumerate() {
            slices.push(IoSlice::new(&record[..RECORD]));
            slices.extend(tags.get(n).map(|tag| IoSlice::new(tag.as_ref())));
        }
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let written = to.write_vectored(slices)?;
            IoSlice::advance_slices(&mut slices, written);
        }
        buffer.copy_within(used..have, 0);
        have -= used;
    }
}

fn key() -> Result<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| failed())?))
}

/// The same for all: nothing here is a secret.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([1; NONCE_LEN])
}

fn failed() -> anyhow::Error {
    anyhow!("the cipher failed")
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn join<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread of the bare relay panicked"))
        .and_then(|it| it)
        .context("bare relay")
}
