//! Answering the gateway with a line and, where there is one, an open file.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Sends it in one message. It is a few bytes into an empty socket; an asker that has gone asks again.
pub(crate) fn lend(asker: &UnixStream, line: &str, file: Option<BorrowedFd<'_>>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(file) = &file
        && !control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)))
    {
        return;
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = sendmsg(asker, &[IoSlice::new(line.as_bytes())], &mut control, flags);
}
