//! `copy-data`: from one open file to another, inside the kernel where it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::copy_file_range;
use rustix::io::Errno;

use crate::codec::Status;
use crate::vfs::{OpenFlags, VfsFile};

use super::pool::write_all;

/// One step inside the kernel, in bytes; between steps the copy can be told to stop.
const STEP: u64 = 16 * 1024 * 1024;
/// One step through our memory, in bytes.
const BUFFER: usize = 256 * 1024;

/// What to copy.
pub(super) struct Copy {
    pub(super) from: Arc<dyn VfsFile>,
    pub(super) from_offset: u64,
    /// Bytes; 0 means to the end.
    pub(super) len: u64,
    pub(super) to: Arc<dyn VfsFile>,
    pub(super) to_offset: u64,
    pub(super) to_flags: OpenFlags,
}

/// Copies; gives the status and the bytes written. A source that ends before `len` bytes gives EOF.
pub(super) fn run(copy: &Copy, stop: &AtomicBool) -> (Status, u64) {
    let left = if copy.len == 0 { u64::MAX } else { copy.len };
    let mut done = 0_u64;
    if let Err(status) = in_kernel(copy, left, &mut done, stop) {
        return (status, done);
    }
    let mut buf = vec![0; BUFFER];
    while done < left {
        if stop.load(Ordering::Relaxed) {
            return (Status::FAILURE, done);
        }
        let want = usize::try_from(left - done).unwrap_or(BUFFER).min(BUFFER);
        let Some(piece) = buf.get_mut(..want) else { break };
        let n = match copy.from.read_at(piece, copy.from_offset.saturating_add(done)) {
            Ok(0) => return (if copy.len == 0 { Status::OK } else { Status::EOF }, done),
            Ok(n) => n,
            Err(e) => return (e.into(), done),
        };
        let (status, bytes) =
            write_all(&*copy.to, piece.get(..n).unwrap_or_default(), copy.to_offset.saturating_add(done));
        done = done.saturating_add(bytes);
        if status != Status::OK {
            return (status, done);
        }
    }
    (Status::OK, done)
}

/// Copies as far as the kernel does it. What is left is read and written: all of it where the kernel has no such copy, and the end, which
/// a file of `/proc` seems to have reached at once.
fn in_kernel(copy: &Copy, left: u64, done: &mut u64, stop: &AtomicBool) -> Result<(), Status> {
    let (Some(from), Some(to)) = (copy.from.as_fd(), copy.to.as_fd()) else { return Ok(()) };
    if copy.to_flags.has(OpenFlags::APPEND) || copy.from.may_block() || copy.to.may_block() {
        return Ok(());
    }
    while *done < left {
        if stop.load(Ordering::Relaxed) {
            return Err(Status::FAILURE);
        }
        let mut from_offset = copy.from_offset.saturating_add(*done);
        let mut to_offset = copy.to_offset.saturating_add(*done);
        let want = usize::try_from((left - *done).min(STEP)).unwrap_or(BUFFER);
        match copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), want) {
            Ok(0) => return Ok(()),
            Ok(n) => *done += n as u64,
            Err(Errno::INTR) => {}
            // Errors that are about the files themselves come again below, and are told then.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
