//! The disks of a machine that are its own: what it writes, and what it is told.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use aws_lc_rs::{digest, rand};

use super::super::message::Failure;
use super::super::{Target, find_program};
use crate::image::hex;
use crate::state::Meta;
use crate::{DEFAULT_DISK_BYTES, SandboxSpec};

/// As `crates/agent/src/machine/config.rs` reads it.
const MAGIC: &[u8; 16] = b"SANDGATE-CONFIG\n";
/// Longest records in bytes; the agent takes no more.
const MAX_RECORDS: usize = 1 << 20;
/// Fresh randomness for each start, in bytes: as much as the kernel's generator is keyed with.
const SEED: usize = 32;
/// A disk is a whole number of sectors of this many bytes.
const SECTOR: usize = 512;

/// An empty file system of the specified size. It takes room only as it is written.
pub(super) fn make_data(target: &Target, spec: &SandboxSpec) -> Result<(), Failure> {
    let path = target.dir.data_disk();
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(Failure::io("make the disk"))?;
    file.set_len(spec.disk_bytes.unwrap_or(DEFAULT_DISK_BYTES)).map_err(Failure::io("make the disk"))?;
    let program = find_program("mke2fs")
        .ok_or_else(|| Failure::machine("mke2fs is not there; install the package e2fsprogs"))?;
    let output = Command::new(program)
        // No blocks for root alone: everybody inside may be root. Tables are written when they are used.
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::io("run mke2fs"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::other(format!("the disk could not be made: mke2fs: {said}")))
}

/// Writes what this start of the machine is told, and says where.
pub(super) fn write_config(target: &Target, spec: &SandboxSpec, meta: &Meta) -> Result<PathBuf, Failure> {
    let mut records = Vec::new();
    let mut put = |key: &str, value: &[u8]| {
        records.extend_from_slice(key.as_bytes());
        records.push(b'=');
        records.extend_from_slice(value);
        records.push(0);
    };
    put("hostname", spec.name.as_bytes());
    for layer in &meta.image.layers {
        put("layer", layer.target.as_bytes());
    }
    let mut seed = [0u8; SEED];
    rand::fill(&mut seed).map_err(|_| Failure::other("the host gives no randomness"))?;
    // A record ends with a zero byte, so the seed's bytes are written as text.
    put("seed", hex(&seed).as_bytes());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    put("clock", format!("{}.{}", now.as_secs(), now.subsec_nanos()).as_bytes());
    let id = digest::digest(&digest::SHA256, format!("{}/{}", target.data.tag(), target.id).as_bytes());
    put("machine-id", hex(id.as_ref()).get(..32).unwrap_or_default().as_bytes());
    for variable in crate::bundle::environment(spec, meta) {
        put("env", variable.as_bytes());
    }
    if records.len() > MAX_RECORDS {
        return Err(Failure::other("the variables are too long"));
    }
    let mut disk = MAGIC.to_vec();
    disk.extend_from_slice(&u32::try_from(records.len()).unwrap_or(u32::MAX).to_le_bytes());
    disk.append(&mut records);
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
    let path = target.dir.root().join("config.img");
    let _ = fs::remove_file(&path);
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(&disk))
        .map_err(Failure::io("write the configuration"))?;
    Ok(path)
}
