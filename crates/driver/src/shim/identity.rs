//! Which ids outside stand behind the ids inside.
//!
//! Root inside must be nobody outside. Where the shim is the machine's root, each sandbox gets 65,536 ids of its own, so that
//! sandboxes cannot touch each other's files even if one got out. An ordinary user has only the ranges of /etc/subuid, or just
//! himself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::message::{Failure, Report};
use crate::state::lock::OpLock;
use crate::state::{DataDir, Identity, Meta, read_json};

/// Ids in one sandbox: what every distribution's tools expect.
const RANGE: u32 = 65_536;

/// First id of the built-in pool: above what useradd hands out as subordinate ids (up to 600,100,000 by default), below 2^31,
/// which some tools take for negative.
const POOL_START: u32 = 1_073_741_824;

/// Ranges in the built-in pool.
const POOL_SLOTS: u32 = 8_192;

/// How long to wait for another sandbox that is choosing its range.
const PATIENCE: Duration = Duration::from_secs(10);

/// Decides, and keeps the choice exclusive until `commit` has recorded it.
pub(crate) fn decide<T>(
    data: &DataDir,
    report: &mut Report,
    commit: impl FnOnce(Identity, &mut Report) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if !rustix::process::geteuid().is_root() {
        let identity = for_user(report);
        return commit(identity, report);
    }
    if let Some(size) = inherited_size() {
        report.warn("This gateway runs in a user namespace itself, so root inside a sandbox is the same id as root here.");
        return commit(Identity::Inherited { size }, report);
    }
    let lock = OpLock::acquire(&data.ranges_lock(), PATIENCE).map_err(Failure::io("lock the id ranges"))?;
    let Some(_lock) = lock else {
        return Err(Failure::other("another sandbox has been choosing its ids for too long"));
    };
    let base = free_base(data)?;
    commit(Identity::Mapped { base, size: RANGE }, report)
}

/// `Some` where the ids of this process are not the machine's, with how many there are from 0 on.
fn inherited_size() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.lines().next()?.split_ascii_whitespace().map(str::parse::<u32>);
    let (inside, outside, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
    (!(inside == 0 && outside == 0 && count == u32::MAX)).then_some(if inside == 0 {
        count.min(RANGE)
    } else {
        1
    })
}

fn free_base(data: &DataDir) -> Result<u32, Failure> {
    let (start, slots) = pool();
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(data.sandboxes()).map_err(Failure::io("list the sandboxes"))?.flatten() {
        if let Ok(meta) = read_json::<Meta>(&entry.path().join("meta.json"))
            && let Identity::Mapped { base, .. } = meta.identity
        {
            taken.insert(base);
        }
    }
    // Gateways with different data directories begin at different places, so that they rarely meet.
    let first = u32::from_str_radix(&data.tag(), 16).unwrap_or(0) % slots;
    (0..slots)
        .map(|n| start + (first + n) % slots * RANGE)
        .find(|base| !taken.contains(base))
        .ok_or_else(|| Failure::machine(format!("all {slots} ranges of ids are in use")))
}

/// The pool of ranges: what /etc/subuid and /etc/subgid give to a user `sandgate`, else the built-in one.
fn pool() -> (u32, u32) {
    let uid = subordinate(Path::new("/etc/subuid"), &["sandgate"]);
    let gid = subordinate(Path::new("/etc/subgid"), &["sandgate"]);
    match (uid, gid) {
        // One number serves for both, so both files have to give the same range.
        (Some((u, count)), Some((g, count_g))) if u == g && count.min(count_g) >= RANGE => {
            (u, count.min(count_g) / RANGE)
        }
        _ => (POOL_START, POOL_SLOTS),
    }
}

pub(super) fn for_user(report: &mut Report) -> Identity {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let name = user_name(&uid);
    let names: Vec<&str> = name.as_deref().into_iter().chain([uid.as_str()]).collect();
    let uids = subordinate(Path::new("/etc/subuid"), &names);
    let gids = subordinate(Path::new("/etc/subgid"), &names);
    match (uids, gids) {
        (Some((uid_base, uid_count)), Some((gid_base, gid_count)))
            if super::find_program("newuidmap").is_some() && super::find_program("newgidmap").is_some() =>
        {
            Identity::Ranged { uid_base, gid_base, count: uid_count.min(gid_count).min(RANGE - 1) }
        }
        (Some(_), Some(_)) => {
            report.warn("newuidmap and newgidmap are not installed, so only root exists inside; install the package uidmap.");
            Identity::Single
        }
        _ => {
            report.warn("This user has no subordinate ids in /etc/subuid and /etc/subgid, so only root exists inside.");
            Identity::Single
        }
    }
}

fn user_name(uid: &str) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The first range of a subuid(5) file for one of these names.
fn subordinate(path: &Path, names: &[&str]) -> Option<(u32, u32)> {
    let text = fs::read_to_string(path).ok()?;
    parse_subordinate(&text, names)
}

fn parse_subordinate(text: &str, names: &[&str]) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let (start, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        (names.contains(&name) && count > 0 && start.checked_add(count).is_some()).then_some((start, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subuid_file_is_read() {
        let text = "# comment\nother:100000:65536\n1000:300000:1000\nme:200000:65536\nbad:4294967295:9\n";
        assert_eq!(parse_subordinate(text, &["me", "1000"]), Some((300_000, 1000)));
        assert_eq!(parse_subordinate(text, &["me"]), Some((200_000, 65_536)));
        assert_eq!(parse_subordinate(text, &["nobody"]), None);
        assert_eq!(parse_subordinate(text, &["bad"]), None, "a range past the end of all ids");
    }
}
