//! `shim remove`: deletes what belongs to ids that the gateway's user may not be.

use std::fs;
use std::io::ErrorKind;

use super::message::Failure;
use super::{Target, userns};
use crate::state::{Meta, read_json};

/// Deletes everything in the sandbox's directory but the locks, whose holders are still there.
pub(crate) fn remove(target: &Target) -> Result<(), Failure> {
    match read_json::<Meta>(&target.dir.meta()) {
        Ok(meta) => userns::enter(&meta.identity)?,
        // Made halfway: nothing of another owner is there yet.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io("read what was created")(error)),
    }
    // What is large and what may fail comes first; while meta.json is there, removing can be tried again.
    for name in ["layers", "skeleton", "bundle"] {
        let path = target.dir.root().join(name);
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("remove {}", path.display()))(error)),
        }
    }
    Ok(())
}
