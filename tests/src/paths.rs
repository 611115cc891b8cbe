//! Where the build put things.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The `sandgate` binary under test.
///
/// # Panics
/// When there is none: a missing product is a failure, not a skip.
pub fn sandgate() -> PathBuf {
    if let Some(path) = std::env::var_os("SANDGATE_BIN") {
        return PathBuf::from(path);
    }
    let candidates = ["release/sandgate", "debug/sandgate"].map(|name| target_dir().join(name));
    candidates
        .iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no sandgate binary: set SANDGATE_BIN or build one of {candidates:?}"))
        .clone()
}

/// The static guest agent that belongs to [`sandgate`], if it is found in one of the usual places.
pub fn agent() -> Option<PathBuf> {
    let beside = sandgate().with_file_name("sandgate-agent");
    let built = target_dir().join("agent/x86_64-unknown-linux-gnu/agent/sandgate-agent");
    [built, beside].into_iter().find(|path| path.exists())
}

/// A script under `tests/clients`.
pub fn client_script(name: &str) -> PathBuf {
    workspace().join("tests/clients").join(name)
}

/// The Python of the venv that `tests/setup.sh` makes.
pub fn venv(program: &str) -> PathBuf {
    target_dir().join("venv/bin").join(program)
}

/// Whether `program` can be found in `PATH` or the system directories.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
