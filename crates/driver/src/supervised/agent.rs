//! The agent binary in the data directory.
//!
//! Sandboxes get a copy, not the installed file: an upgrade must not change a running sandbox's PID 1 under it, and the copy
//! is readable by ids without rights, wherever the original lies.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::DriverError;
use crate::state::DataDir;

/// Largest agent in bytes: a release build has about 2 MB, a debug build some 50.
const MAX_AGENT: u64 = 256 << 20;

/// Copies the agent to `agents/<sha256>/sandgate-agent` unless it is there, and returns that path.
pub(super) fn install(data: &DataDir, source: &Path) -> Result<PathBuf, DriverError> {
    let fail = |action: &str, path: &Path| DriverError::io(format!("{action} {}", path.display()));
    let size = fs::metadata(source).map_err(fail("read the agent", source))?.len();
    if size == 0 || size > MAX_AGENT {
        return Err(DriverError::Unsupported(format!("{} is not an agent binary", source.display())));
    }
    let bytes = fs::read(source).map_err(fail("read the agent", source))?;
    let hash = digest::digest(&digest::SHA256, &bytes);
    let name: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = data.agents().join(name);
    let place = dir.join("sandgate-agent");
    if place.exists() {
        return Ok(place);
    }
    DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(fail("make", &dir))?;
    let fresh = dir.join(format!("new.{}", std::process::id()));
    fs::write(&fresh, &bytes).map_err(fail("write", &fresh))?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o555)).map_err(fail("write", &fresh))?;
    // Another gateway may have done the same; its file has the same bytes.
    fs::rename(&fresh, &place).map_err(fail("write", &place))?;
    Ok(place)
}
