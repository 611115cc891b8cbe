//! Where things are: the data directory and the agent.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Name of the agent's binary.
const AGENT: &str = "sandgate-agent";

/// The data directory, absolute: the one that was asked for, else the usual one of this user.
pub fn data_dir(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let directory = match asked {
        Some(directory) => directory,
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/sandgate"),
        None => match std::env::home_dir() {
            Some(home) if !home.as_os_str().is_empty() => home.join(".local/share/sandgate"),
            _ => bail!("this user has no home directory; say where to keep data with --data-dir"),
        },
    };
    std::path::absolute(&directory)
        .with_context(|| format!("the path {} cannot be used", directory.display()))
}

/// The agent: the one that was asked for, else where packages put it, else where `make build` made it, else beside this
/// program. Cargo puts a dynamically linked agent beside this program when it builds the whole workspace; in an image
/// without libraries that cannot run, so only a static one is taken.
pub fn agent(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = asked {
        let path = std::path::absolute(path)?;
        if path.is_file() {
            return Ok(path);
        }
        bail!("there is no agent at {}", path.display());
    }
    let program = std::env::current_exe().context("this program's own path cannot be found")?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let candidates = [
        beside.join("../lib/sandgate").join(AGENT),
        beside.join("../agent/x86_64-unknown-linux-gnu/agent").join(AGENT),
        beside.join(AGENT),
    ];
    match candidates.iter().find(|path| std::fs::read(path).is_ok_and(|program| is_static(&program))) {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "there is no static guest agent {AGENT} beside {}; build it with `make build` or name it with --agent",
            program.display()
        ),
    }
}

/// Whether an ELF program for a 64-bit little-endian machine names no interpreter (no `PT_INTERP` among its program headers, elf(5)).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let field = |at: usize, len: usize| {
        let bytes = program.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let headers = || {
        let (offset, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
        (0..count)
            .map(|index| field(usize::try_from(offset.checked_add(index * size)?).ok()?, 4))
            .collect::<Option<Vec<_>>>()
    };
    program.starts_with(b"\x7fELF\x02\x01")
        && headers().is_some_and(|types| !types.contains(&u64::from(PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one program header of the given type.
    fn program(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn only_static_programs_are_taken() {
        assert!(is_static(&program(1)));
        assert!(!is_static(&program(3)), "it names an interpreter");
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(&program(1)[..40]), "cut short");
        let test_program = std::env::current_exe().and_then(std::fs::read).expect("this program");
        assert!(!is_static(&test_program), "this test is linked dynamically");
    }

    #[test]
    fn an_absurd_header_is_no_program() {
        let mut bytes = program(1);
        bytes[32..40].fill(0xff);
        assert!(!is_static(&bytes));
    }
}
