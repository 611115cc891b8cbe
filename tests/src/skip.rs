//! Skips that nobody can overlook.

use std::io::Write as _;

/// Says why a test cannot run here and notes it in `target/test-skips.txt`, which `make test` prints at its end.
///
/// The caller returns right after.
pub fn because(reason: &str) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    println!("skipped: {reason}");
    let file = crate::paths::target_dir().join("test-skips.txt");
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(file) {
        // One write, so that lines of parallel tests do not mix.
        let _ = file.write_all(format!("{name}: {reason}\n").as_bytes());
    }
}

/// Returns true, after noting the skip, when the oracle is under test: `sshd` has no such thing to compare with.
pub fn oracle_lacks(what: &str) -> bool {
    let oracle = crate::Kind::from_env() == crate::Kind::Sshd;
    if oracle {
        because(&format!("sshd, the oracle, has no {what}"));
    }
    oracle
}
