//! Questions to a sandbox's shim that it answers with a line and, mostly, an open file.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::state::SandboxDir;

/// How long the shim may take to answer. It does nothing else, and without an answer the agent does what is wanted.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 64;

/// What the shim said.
pub(super) struct Answer {
    /// One line.
    pub(super) line: String,
    /// What came with it.
    pub(super) file: Option<OwnedFd>,
    /// The way to the shim. It keeps some of them.
    pub(super) stream: UnixStream,
}

/// Asks. A shim from before this question hangs up, and the line is empty.
pub(super) async fn ask(dir: &SandboxDir, question: &str) -> io::Result<Answer> {
    let asked = async {
        let mut stream = super::connect(&dir.shim_socket()).await?;
        stream.write_all(question.as_bytes()).await?;
        let (line, file) = receive(&stream).await?;
        let line = String::from_utf8(line).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        Ok(Answer { line, file, stream })
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        tracing::warn!(question = question.trim_end(), "the shim does not answer");
        Err(ErrorKind::TimedOut.into())
    })
}

/// One message: the shim writes its answer in one piece.
async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut buffer = [0; MAX_ANSWER];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let bufs = &mut [IoSliceMut::new(&mut buffer)];
            let n = recvmsg(stream, bufs, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
            let mut directory = None;
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = part {
                    directory = fds.next();
                }
            }
            Ok((buffer.get(..n).unwrap_or_default().to_vec(), directory))
        })
        .await
}
