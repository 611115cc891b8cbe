//! What the host tells this machine about itself: a small disk of `key=value` records, each ending with a zero byte.
//!
//! The host wrote it, so it is trusted; it is checked so that a mistake there shows as a sentence.

use std::fs::File;
use std::io::Read as _;

use super::disks::Disks;
use super::{Failed, doing};
use crate::launch::Var;

/// First bytes of the disk; the length of the records follows, four bytes, low byte first.
const MAGIC: &[u8; 16] = b"SANDGATE-CONFIG\n";
/// Longest records in bytes.
const MAX_LENGTH: usize = 1 << 20;

/// All of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) hostname: Vec<u8>,
    /// Where each layer goes, relative to the root; the first is the root. In the order of the disks `layer0`, `layer1`, …
    pub(super) layers: Vec<Vec<u8>>,
    /// Fresh randomness.
    pub(super) seed: Vec<u8>,
    /// Seconds since 1970 and nanoseconds.
    pub(super) clock: Option<(u64, u32)>,
    pub(super) machine_id: Option<Vec<u8>>,
    pub(super) env: Vec<Var>,
}

impl Config {
    pub(super) fn read(disks: &Disks) -> Result<Self, Failed> {
        let path = disks.get("config").ok_or(Failed("the disk with the configuration is missing".into()))?;
        let mut file = File::open(path).map_err(doing("open the configuration"))?;
        let mut head = [0u8; MAGIC.len() + 4];
        file.read_exact(&mut head).map_err(doing("read the configuration"))?;
        let (magic, length) = head.split_at(MAGIC.len());
        let length = length.first_chunk::<4>().map_or(usize::MAX, |b| u32::from_le_bytes(*b) as usize);
        if magic != MAGIC || length > MAX_LENGTH {
            return Err(Failed("the configuration is not one".into()));
        }
        let mut records = vec![0; length];
        file.read_exact(&mut records).map_err(doing("read the configuration"))?;
        Self::parse(&records)
    }

    fn parse(records: &[u8]) -> Result<Self, Failed> {
        let mut config = Self::default();
        for record in records.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let bad = || Failed(format!("a record cannot be read: {}", String::from_utf8_lossy(record)));
            let (key, value) = split(record).ok_or_else(bad)?;
            match key {
                b"hostname" => config.hostname = value.to_vec(),
                b"layer" => config.layers.push(value.to_vec()),
                b"seed" => config.seed = value.to_vec(),
                b"clock" => config.clock = Some(clock(value).ok_or_else(bad)?),
                b"machine-id" => config.machine_id = Some(value.to_vec()),
                b"env" => {
                    let (name, value) = split(value).ok_or_else(bad)?;
                    config.env.push((name.to_vec(), value.to_vec()));
                }
                // From a newer host; what must not be ignored comes with a newer agent.
                _ => {}
            }
        }
        Ok(config)
    }
}

fn split(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..at)?, record.get(at + 1..)?))
}

/// `SECONDS.NANOSECONDS`.
fn clock(value: &[u8]) -> Option<(u64, u32)> {
    let (seconds, nanos) = std::str::from_utf8(value).ok()?.split_once('.')?;
    Some((seconds.parse().ok()?, nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_strange_ones_named() {
        let config =
            Config::parse(b"hostname=a\0layer=\0layer=usr\0clock=12.5\0env=A=b=c\0later=x\0\0").unwrap();
        assert_eq!(config.layers, [b"".to_vec(), b"usr".to_vec()]);
        assert_eq!(config.clock, Some((12, 5)));
        assert_eq!(config.env, [(b"A".to_vec(), b"b=c".to_vec())]);
        for bad in [&b"hostname"[..], b"clock=1", b"clock=1.1000000000", b"env=A"] {
            assert!(Config::parse(bad).is_err());
        }
    }
}
