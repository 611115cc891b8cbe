//! Moving bytes between a client and its command, and doing what the client asks for meanwhile.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;

use axum::extract::ws::Message;
use futures_util::SinkExt as _;
use sandgate_gateway::session::{SessionOutput, Traffic};
use sandgate_guest::{ProcessControl, ProcessInput, Ready};
use tokio::sync::mpsc;

use super::protocol::FromClient;
use crate::websocket::{self, CloseCode, End, Keepalive, Notice, Received, Sink, Stream};

/// Read from the process at once, in bytes.
const PIECE: usize = 32 * 1024;
/// Before what is of standard output, or of the terminal.
const STDOUT: u8 = 1;
/// Before what is of standard error.
const STDERR: u8 = 2;

/// What both directions share.
pub(super) struct Pump<'a> {
    pub(super) control: &'a ProcessControl,
    pub(super) traffic: &'a Traffic,
    pub(super) keepalive: Keepalive,
    pub(super) replies: mpsc::Sender<Notice>,
}

impl Pump<'_> {
    /// From the client, until it has gone or breaks the protocol.
    pub(super) async fn read(&self, stream: &mut Stream, input: ProcessInput) -> End {
        // `None` once it was shut down, or is read no more: what comes then goes nowhere.
        let mut input = Some(input);
        loop {
            let received = match websocket::next(stream).await {
                Ok(received) => received,
                Err(end) => return end,
            };
            self.keepalive.heard();
            match received {
                Received::Binary(data) => {
                    if let Some(process) = &mut input
                        && self.keepalive.while_busy(self.feed(process, &data)).await.is_err()
                    {
                        input = None;
                    }
                }
                Received::Text(text) => match websocket::parse(&text) {
                    Ok(FromClient::Eof {}) => {
                        if let Some(mut process) = input.take() {
                            // A process that is gone has no use for it.
                            let _ = process.shutdown().await;
                        }
                    }
                    Ok(said) => {
                        if let Err(end) = self.said(said) {
                            return end;
                        }
                    }
                    Err(end) => return end,
                },
                Received::Pulse => {}
            }
        }
    }

    async fn feed(&self, process: &mut ProcessInput, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let taken = poll_fn(|cx| process.poll_write(cx, data)).await?;
            self.traffic.took([data], taken);
            data = data.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn said(&self, message: FromClient) -> Result<(), End> {
        match message {
            FromClient::Eof {} => Ok(()),
            FromClient::Signal { name } => match self.control.signal(&name) {
                Ok(()) => Ok(()),
                Err(error) => self.reply(Notice::Error { text: format!("No signal was sent: {error}.") }),
            },
            FromClient::Resize(size) => {
                self.traffic.resized(size.cols, size.rows);
                if let Err(error) = self.control.resize(size.into()) {
                    tracing::debug!(%error, "size not passed on");
                }
                Ok(())
            }
            FromClient::Ping { id } => self.reply(Notice::Pong { id }),
        }
    }

    /// A client that asks and does not read is taken for silent.
    fn reply(&self, notice: Notice) -> Result<(), End> {
        let full = |_| End::Ours(CloseCode::Silent, Some("Answers are not read.".to_owned()));
        self.replies.try_send(notice).map_err(full)
    }

    /// To the client, until the command has ended.
    pub(super) async fn write(
        &self,
        sink: &mut Sink,
        mut output: SessionOutput,
        mut replies: mpsc::Receiver<Notice>,
    ) -> End {
        loop {
            let sent = tokio::select! {
                ready = poll_fn(|cx| output.poll_ready(cx)) => {
                    let from = match ready {
                        Ready::Stdout => STDOUT,
                        Ready::Stderr => STDERR,
                        Ready::Exit(status) => return End::Exit(status),
                        Ready::LinkLost(error) => return End::Lost(error.to_string()),
                    };
                    let mut piece = vec![from; PIECE];
                    match output.try_read(piece.get_mut(1..).unwrap_or_default()) {
                        Ok(read) => {
                            self.traffic.bytes_out.fetch_add(read as u64, Ordering::Relaxed);
                            piece.truncate(1 + read);
                            sink.send(Message::Binary(piece.into())).await
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return End::Lost(error.to_string()),
                    }
                }
                Some(reply) = replies.recv() => websocket::say(sink, &reply).await,
                () = self.keepalive.due() => websocket::ping(sink).await,
            };
            if sent.is_err() {
                return End::Gone;
            }
        }
    }
}
