//! The machine's disks by the serial numbers that the host gave them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Failed, doing};

/// Where the kernel lists disks.
const BLOCK: &str = "/sys/block";
/// How long the kernel may take to find them, once its driver is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Device files by serial number.
#[derive(Debug)]
pub(super) struct Disks(BTreeMap<String, PathBuf>);

impl Disks {
    pub(super) fn get(&self, serial: &str) -> Option<&Path> {
        self.0.get(serial).map(PathBuf::as_path)
    }
}

/// Waits until the disks of this machine are there: `data` is always the last that is found.
pub(super) fn find() -> Result<Disks, Failed> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let disks = look()?;
        if disks.get("config").is_some() && disks.get("data").is_some() {
            return Ok(disks);
        }
        if Instant::now() >= deadline {
            return Err(Failed(format!("disks are missing; there are {:?}", disks.0.keys())));
        }
        std::thread::sleep(PAUSE);
    }
}

fn look() -> Result<Disks, Failed> {
    let mut disks = BTreeMap::new();
    for entry in fs::read_dir(BLOCK).map_err(doing("list the disks"))?.flatten() {
        let Ok(serial) = fs::read_to_string(entry.path().join("serial")) else { continue };
        disks.insert(serial.trim().to_owned(), Path::new("/dev").join(entry.file_name()));
    }
    Ok(Disks(disks))
}
