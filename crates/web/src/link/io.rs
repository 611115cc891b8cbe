//! The bytes of one link: reading, writing, keepalive.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sandgate_guest::Keepalive;
use sandgate_wire::keepalive::{Tick, Watch};
use sandgate_wire::message::{Hello, Open};
use sandgate_wire::mux::{Event, Mux, MuxError, Role};
use sandgate_wire::{CAP_DIAL, CAP_LISTEN, CAP_OUTPUT_GONE, CAP_PING};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Name and version in the hello.
const SOFTWARE: &str = concat!("sandgate ", env!("CARGO_PKG_VERSION"));
/// Bytes read at once; on the stack, so that an idle link holds no buffer.
const PIECE: usize = 32 * 1024;
/// Time for the request after the upgrade; the client sends it without waiting for anything.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long the last words may take to a client that does not read.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why nothing more can be said to the client.
#[derive(Debug)]
pub(super) enum Gone {
    /// It closed the connection.
    Closed,
    /// It does not answer keepalives.
    Silent,
    /// It does not keep to the protocol.
    Broken(MuxError),
}

/// The agent's end of a link.
pub(super) struct Link<S> {
    stream: S,
    pub(super) mux: Mux,
    /// Bytes that were read but not taken yet: at most one read.
    backlog: Vec<u8>,
    ticks: Interval,
    watch: Watch,
    keepalive: Keepalive,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(super) fn new(stream: S, keepalive: Keepalive) -> Self {
        let mut ticks = interval_at(Instant::now() + keepalive.interval, keepalive.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let capabilities = CAP_DIAL | CAP_LISTEN | CAP_PING | CAP_OUTPUT_GONE;
        Self {
            stream,
            mux: Mux::new(Role::Agent, Hello::new(SOFTWARE, capabilities)),
            backlog: Vec::new(),
            ticks,
            watch: Watch::new(keepalive),
            keepalive,
        }
    }

    /// Moves what can be moved. Ready when that was something: the caller should look at the events, and ask again.
    pub(super) fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut moved = false;
        while self.ticks.poll_tick(cx).is_ready() {
            if self.mux.answers_pings() {
                match self.watch.tick(self.mux.heard()) {
                    Tick::Ask => drop(self.mux.ping(self.keepalive.patience())),
                    Tick::Lost => return Poll::Ready(Err(Gone::Silent)),
                    Tick::Silent => {}
                }
            }
        }
        while !self.mux.output().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.mux.output()) {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.mux.consume_output(written);
                    moved = true;
                }
                Poll::Ready(_) => return Poll::Ready(Err(Gone::Closed)),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(_)) = Pin::new(&mut self.stream).poll_flush(cx) {
            return Poll::Ready(Err(Gone::Closed));
        }
        if self.mux.wants_input() {
            if !self.backlog.is_empty() {
                let bytes = std::mem::take(&mut self.backlog);
                self.feed(&bytes)?;
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut room = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                    self.feed(room.filled())?;
                    moved = true;
                }
                Poll::Ready(_) => return Poll::Ready(Err(Gone::Closed)),
                Poll::Pending => {}
            }
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let taken = self.mux.input(bytes).map_err(Gone::Broken)?;
        self.backlog = bytes[taken..].to_vec();
        Ok(())
    }

    /// The client's request and its stream.
    pub(super) async fn request(&mut self) -> Result<(u32, Open), Gone> {
        let request = poll_fn(|cx| {
            loop {
                while let Some(event) = self.mux.poll_event() {
                    if let Event::Open(stream, open) = event {
                        return Poll::Ready(Ok((stream, open)));
                    }
                }
                match self.poll_io(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        tokio::time::timeout(REQUEST_TIME, request).await.unwrap_or(Err(Gone::Silent))
    }

    /// Answers keepalives until the client has gone. What it says meanwhile waits.
    pub(super) async fn idle(&mut self) -> Gone {
        poll_fn(|cx| {
            loop {
                match self.poll_io(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(gone)) => return Poll::Ready(gone),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Waits until the client has taken all that was said, or is known to be gone. One that is stopped, or reads slowly, has the time
    /// that keepalives give it; one that knows none has no time here.
    pub(super) async fn deliver(&mut self) -> Result<(), Gone> {
        if !self.mux.answers_pings() {
            return Ok(());
        }
        poll_fn(|cx| {
            loop {
                while self.mux.poll_event().is_some() {}
                match self.poll_io(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone)),
                    Poll::Pending => break,
                }
            }
            if self.mux.output().is_empty() && Pin::new(&mut self.stream).poll_flush(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            Poll::Pending
        })
        .await
    }

    /// Sends what is left, and waits a little for the client to close: what it has not read yet would be lost otherwise.
    pub(super) async fn finish(mut self) {
        let closed = poll_fn(|cx| {
            loop {
                while self.mux.poll_event().is_some() {}
                match self.poll_io(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        // Nothing can be done for one that neither reads nor closes.
        let _ = tokio::time::timeout(LAST_WORDS, closed).await;
    }
}

#[cfg(test)]
mod tests {
    use sandgate_wire::frame::Kind;
    use sandgate_wire::message::{Exit, Opened};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// More than the way to the client holds.
    const OUTPUT: usize = 30_000;

    /// A link whose session has ended, and the client's end of it, which has read nothing yet.
    async fn ended(keepalive: Keepalive) -> (Link<DuplexStream>, DuplexStream, Mux) {
        let (ours, mut theirs) = tokio::io::duplex(2048);
        let mut client = Mux::new(Role::Host, Hello::new("test", CAP_PING));
        client.open(&Open::Info).expect("a stream");
        theirs.write_all(client.output()).await.expect("written");
        client.consume_output(client.output().len());
        let mut link = Link::new(ours, keepalive);
        let (stream, _) = link.request().await.expect("a request");
        link.mux.opened(stream, &Opened::Exec { passed_stdio: false, own: false });
        assert_eq!(link.mux.send_data(stream, Kind::Stdout, &[7; OUTPUT]), OUTPUT);
        link.mux.send_exit(stream, &Exit::Code(3));
        (link, theirs, client)
    }

    #[tokio::test]
    async fn the_last_words_wait_for_a_client_that_is_slow() {
        let (mut link, mut theirs, mut client) = ended(Keepalive::default()).await;
        let reading = async {
            tokio::time::sleep(LAST_WORDS + Duration::from_millis(500)).await;
            let mut exit = None;
            while exit.is_none() {
                let mut piece = [0; 1024];
                let count = theirs.read(&mut piece).await.expect("read");
                assert!(count > 0, "the link has ended");
                client.input(&piece[..count]).expect("the protocol");
                while let Some(event) = client.poll_event() {
                    if let Event::Exit(_, code) = event {
                        exit = Some(code);
                    }
                }
            }
            assert_eq!(exit, Some(Exit::Code(3)));
            assert_eq!(client.readable(1).0, OUTPUT);
        };
        let (delivered, ()) = tokio::join!(link.deliver(), reading);
        assert!(delivered.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_has_gone_is_not_waited_for() {
        let keepalive = Keepalive { interval: Duration::from_millis(50), max_missed: 3 };
        let (mut link, theirs, _) = ended(keepalive).await;
        assert!(matches!(link.deliver().await, Err(Gone::Silent)));
        drop(theirs);
        let (mut link, theirs, _) = ended(Keepalive::default()).await;
        drop(theirs);
        assert!(matches!(link.deliver().await, Err(Gone::Closed)));
    }
}
