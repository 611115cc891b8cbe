//! The standard input and output of a program in a container, by the engine's exec API.
//!
//! The API is HTTP until it answers `101`; from then on the connection carries our bytes as they are, and the program's in frames of an 8 byte
//! header: which stream, three zeros, the length (big-endian). Frames are passed on piece by piece, so none is too long.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::UnixStream;

use super::engine::plain;

/// Bytes read at once: an engine sends frames of up to 32 KiB.
const READ_BUFFER: usize = 32 << 10;
/// How much of what the program prints on its standard error is kept, in bytes.
const MAX_LOG: usize = 256 << 10;
/// Largest refusal of an engine that is read, in bytes.
const MAX_REFUSAL: usize = 64 << 10;
/// How much of it an error may quote, in bytes.
const MAX_HEAD: usize = 400;
const HEADER: usize = 8;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// The program's input and output. Its standard error goes to a log, up to a bound.
pub(super) struct ExecStream {
    inner: BufReader<TokioIo<Upgraded>>,
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    known: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    log: Log,
}

impl ExecStream {
    /// Starts an agent that was made by the exec API, and waits until it speaks.
    ///
    /// # Errors
    /// `InvalidData` where something else than an agent answers, or nothing.
    pub(super) async fn start(socket: &Path, exec: &str, log: File) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends with the request, or when the connection becomes ours.
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/exec/{exec}/start"))
            .header(HOST, "docker")
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "tcp")
            .body(Full::new(Bytes::from_static(br#"{"Detach":false,"Tty":false}"#)))
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
            let text = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(io::Error::other(format!(
                "the engine does not run the agent ({status}): {}",
                plain(&String::from_utf8_lossy(&text))
            )));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        let mut stream = Self {
            inner: BufReader::with_capacity(READ_BUFFER, TokioIo::new(upgraded)),
            header: [0; HEADER],
            known: 0,
            left: 0,
            log: Log { file: log, room: MAX_LOG, head: Vec::new() },
        };
        poll_fn(|cx| stream.poll_agent(cx)).await?;
        Ok(stream)
    }

    /// Waits for the first byte of an agent, which speaks first and begins with the zeros of stream 0. Anything else is the complaint of the
    /// engine or of its runtime, which come on the same streams.
    fn poll_agent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fault = |text: String| Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        loop {
            if !ready!(self.poll_header(cx))? {
                return fault(match self.log.text() {
                    said if said.is_empty() => "the agent ended at once".to_owned(),
                    said => format!("the agent ended at once; it said: {said}"),
                });
            }
            let data = ready!(Pin::new(&mut self.inner).poll_fill_buf(cx))?;
            let part = data.get(..self.left.min(data.len())).unwrap_or_default();
            match (self.header[0], part) {
                (_, []) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                (STDOUT, [0, ..]) => return Poll::Ready(Ok(())),
                (STDOUT, text) => {
                    let said = plain(&String::from_utf8_lossy(text));
                    self.log.keep(text);
                    return fault(format!("the agent was not run: {said}"));
                }
                (_, text) => {
                    self.log.keep(text);
                    let count = text.len();
                    self.left -= count;
                    Pin::new(&mut self.inner).consume(count);
                }
            }
        }
    }

    /// Reads until a frame with something in it begins. `false` at the end of the stream.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.left == 0 {
            let mut room = ReadBuf::new(self.header.get_mut(self.known..).unwrap_or_default());
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut room))?;
            let read = room.filled().len();
            if read == 0 {
                return Poll::Ready(if self.known == 0 {
                    Ok(false)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
            self.known += read;
            if self.known == HEADER {
                let [_, _, _, _, length @ ..] = self.header;
                self.left = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
                self.known = 0;
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl AsyncRead for ExecStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while buf.remaining() > 0 {
            if !ready!(this.poll_header(cx))? {
                return Poll::Ready(Ok(()));
            }
            let length = this.left.min(buf.remaining());
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(length));
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
            let data = part.filled();
            let count = data.len();
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.left = this.left.saturating_sub(count);
            match this.header[0] {
                STDOUT => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                STDERR => this.log.keep(data),
                other => {
                    let text = format!("the engine sent a frame of the unknown stream {other}");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ExecStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The beginning of what the program printed.
struct Log {
    file: File,
    /// Bytes that may still be kept.
    room: usize,
    /// The very first of it, for an error.
    head: Vec<u8>,
}

impl Log {
    /// A few kilobytes to a local file at most, so it is written at once.
    fn keep(&mut self, data: &[u8]) {
        self.head.extend(data.iter().take(MAX_HEAD.saturating_sub(self.head.len())));
        let part = data.get(..self.room.min(data.len())).unwrap_or_default();
        self.room -= part.len();
        if self.file.write_all(part).is_err() {
            self.room = 0;
        }
    }

    fn text(&self) -> String {
        plain(&String::from_utf8_lossy(&self.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    fn frame(stream: u8, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0][..], &length, data].concat()
    }

    /// An engine that answers the start of a program with `answer`, a byte at a time, and ends.
    async fn start(answer: Vec<u8>) -> (io::Result<ExecStream>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            for byte in answer {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let log = File::create(dir.path().join("log")).unwrap();
        (ExecStream::start(&socket, "x", log).await, dir)
    }

    const SWITCHED: &[u8] = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

    #[tokio::test]
    async fn output_is_passed_on_and_errors_are_kept_apart() {
        let frames = [frame(1, b"\0ab"), frame(2, b"complaint"), frame(1, b""), frame(1, b"cd")].concat();
        let (stream, dir) = start([SWITCHED, &frames].concat()).await;
        let mut text = Vec::new();
        stream.unwrap().read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"\0abcd");
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"complaint");
    }

    #[tokio::test]
    async fn a_complaint_in_place_of_an_agent_is_an_error() {
        for stream in [1, 2] {
            let frames = frame(stream, b"OCI runtime exec failed\r\n");
            let (stream, _dir) = start([SWITCHED, &frames].concat()).await;
            let error = stream.map(drop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            // A byte at a time is how it came.
            assert!(error.to_string().contains(": O"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_off_or_unknown_is_an_error() {
        for frames in [frame(3, b"x"), frame(1, b"xyz")[..9].to_vec(), vec![1, 0, 0]] {
            let (stream, _dir) = start([SWITCHED, &frame(1, b"\0"), &frames].concat()).await;
            assert!(stream.unwrap().read_to_end(&mut Vec::new()).await.is_err(), "{frames:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_says_why() {
        let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 25\r\n\r\ncontainer x is not running";
        let (stream, _dir) = start(answer.to_vec()).await;
        let error = stream.map(drop).unwrap_err();
        assert!(error.to_string().contains("container x is not"), "{error}");
    }

    #[test]
    fn the_log_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log { file: File::create(&path).unwrap(), room: MAX_LOG, head: Vec::new() };
        for _ in 0..100 {
            log.keep(&[b'x'; 4096]);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MAX_LOG as u64);
    }
}
