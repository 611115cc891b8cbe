//! One WebSocket at a terminal.
//!
//! Reading, writing and the keepalive are three futures, so that a client which does not read is noticed, and one whose typing waits for the shell
//! still gets output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use sandgate_gateway::Gateway;
use sandgate_gateway::session::Peer;
use sandgate_gateway::terminal::{self, Attachment, Mode, TerminalError};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::protocol::{CloseCode, FromClient, ToClient, exit, size};

/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(10);
/// Time between our pings; also how long each may take to be answered.
const PING: Duration = Duration::from_secs(30);
/// Unanswered pings that end the attachment.
const MAX_MISSED: u32 = 3;
/// How long the last words may take to reach the client.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Answers that wait to be sent.
const MAX_REPLIES: usize = 16;
/// Largest message of output, in bytes: what is on the screen is acknowledged by message.
const PIECE: usize = 32 * 1024;
/// A full reset, for an emulator that does not know that a picture of the screen follows.
const RESET: &[u8] = b"\x1bc";

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// Why a connection ends.
enum End {
    /// The client has gone.
    Gone,
    /// From our side, perhaps with a last message.
    Close(CloseCode, Option<ToClient>),
}

impl End {
    fn protocol(text: &str) -> End {
        End::Close(CloseCode::Protocol, Some(ToClient::Error { text: text.to_owned() }))
    }

    fn ended(text: String) -> End {
        End::Close(CloseCode::Ended, Some(ToClient::Error { text }))
    }
}

/// Serves a connection to its end. `place` is given back when a ticket was shown.
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    socket: WebSocket,
    peer: Option<Peer>,
    place: OwnedSemaphorePermit,
) {
    let (mut sink, mut stream) = socket.split();
    let end = match timeout(FIRST, first(&mut stream)).await {
        Err(_) => End::protocol("The ticket did not come in time."),
        Ok(Err(end)) => end,
        Ok(Ok((ticket, size))) => {
            drop(place);
            match gateway.terminals.attach(&gateway, &ticket, size, peer) {
                Ok(attachment) => attached(&mut sink, &mut stream, attachment).await,
                Err(error) => refused(&error),
            }
        }
    };
    if let End::Close(code, last) = end {
        // A client that does not read is not waited for.
        let _ = timeout(LAST_WORDS, close(&mut sink, &mut stream, code, last)).await;
    }
}

fn refused(error: &TerminalError) -> End {
    let code = match error {
        TerminalError::Ticket => CloseCode::Ticket,
        _ => CloseCode::Ended,
    };
    End::Close(code, Some(ToClient::Error { text: error.to_string() }))
}

/// The ticket, and the size of the client's window.
async fn first(stream: &mut Stream) -> Result<(String, sandgate_guest::WindowSize), End> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(FromClient::Attach { ticket, cols, rows, xpixel, ypixel }) => {
                    return Ok((ticket, size(cols, rows, xpixel, ypixel)));
                }
                // The parser's own words could hold a part of the ticket.
                _ => return Err(End::protocol("The first message must be a complete \"attach\".")),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_))) => {
                return Err(End::protocol("The first message must be \"attach\"."));
            }
            Some(Err(_)) => return Err(End::protocol("That is no message of this protocol.")),
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
        }
    }
}

/// What the futures of a connection share.
struct Connection {
    attachment: Attachment,
    /// Something came since the last ping.
    heard: AtomicBool,
    /// What the client typed waits for the shell, so we do not listen.
    busy: AtomicBool,
    /// A ping is to be sent.
    ping: Notify,
    replies: mpsc::Sender<ToClient>,
}

async fn attached(sink: &mut Sink, stream: &mut Stream, attachment: Attachment) -> End {
    let (replies, waiting) = mpsc::channel(MAX_REPLIES);
    let connection = Connection {
        attachment,
        heard: AtomicBool::new(true),
        busy: AtomicBool::new(false),
        ping: Notify::new(),
        replies,
    };
    tokio::select! {
        end = connection.read(stream) => end,
        end = connection.write(sink, waiting) => end,
        end = connection.keep_alive() => end,
        reason = connection.attachment.ended() => End::ended(reason.text().to_owned()),
    }
}

impl Connection {
    async fn read(&self, stream: &mut Stream) -> End {
        loop {
            let message = match stream.next().await {
                None | Some(Ok(Message::Close(_))) => return End::Gone,
                Some(Err(_)) => return End::protocol("That is no message of this protocol."),
                Some(Ok(message)) => message,
            };
            self.heard.store(true, Ordering::Relaxed);
            let result = match message {
                Message::Binary(data) => self.typed(data).await,
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(said) => self.said(said).await,
                    Err(error) => {
                        Err(End::protocol(&format!("That is no message of this protocol: {error}.")))
                    }
                },
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn typed(&self, data: Bytes) -> Result<(), End> {
        if self.attachment.mode() == Mode::Watch {
            return self
                .reply(ToClient::Error { text: "You are watching: what you type goes nowhere.".to_owned() });
        }
        self.busy.store(true, Ordering::Relaxed);
        self.attachment.input(data).await;
        self.busy.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn said(&self, message: FromClient) -> Result<(), End> {
        match message {
            FromClient::Attach { .. } => return Err(End::protocol("This connection is attached already.")),
            FromClient::Resize { cols, rows, xpixel, ypixel } => {
                self.attachment.resize(size(cols, rows, xpixel, ypixel)).await;
            }
            FromClient::Ack { bytes } => {
                self.attachment.acknowledge(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            FromClient::Ping { id } => return self.reply(ToClient::Pong { id }),
        }
        Ok(())
    }

    fn reply(&self, message: ToClient) -> Result<(), End> {
        self.replies.try_send(message).map_err(|_| End::Close(CloseCode::Silent, None))
    }

    async fn write(&self, sink: &mut Sink, mut replies: mpsc::Receiver<ToClient>) -> End {
        // The client resets its emulator for the first picture only.
        let mut reset = false;
        loop {
            let sent = tokio::select! {
                message = self.attachment.next() => match message {
                    None => return End::ended("The terminal has ended.".to_owned()),
                    Some(message) => match self.tell(sink, message, &mut reset).await {
                        Ok(sent) => sent,
                        Err(end) => return end,
                    },
                },
                Some(reply) = replies.recv() => say(sink, &reply).await,
                () = self.ping.notified() => sink.send(Message::Ping(Bytes::new())).await,
            };
            if sent.is_err() {
                return End::Gone;
            }
        }
    }

    /// Passes a message on; the last one is the end.
    async fn tell(
        &self,
        sink: &mut Sink,
        message: terminal::Message,
        reset: &mut bool,
    ) -> Result<Result<(), axum::Error>, End> {
        Ok(match message {
            terminal::Message::Output(data) => output(sink, data.into()).await,
            terminal::Message::Screen(dump) => {
                let dump = if *reset { [RESET, &dump].concat() } else { dump };
                *reset = true;
                sink.send(Message::Binary(dump.into())).await
            }
            terminal::Message::Progress(text) => say(sink, &ToClient::Progress { text }).await,
            terminal::Message::Resize { cols, rows } => say(sink, &ToClient::Resize { cols, rows }).await,
            terminal::Message::Ready { session, resumed, cols, rows, since } => {
                let mode = self.attachment.mode().into();
                let terminal = self.attachment.terminal().map(str::to_owned);
                say(sink, &ToClient::Ready { terminal, session, mode, resumed, cols, rows, since }).await
            }
            terminal::Message::Exit(status) => return Err(End::Close(CloseCode::Done, Some(exit(status)))),
            terminal::Message::Ended(text) => return Err(End::ended(text)),
            terminal::Message::Detached => {
                let text = "Another page has taken over this terminal.".to_owned();
                return Err(End::Close(CloseCode::Detached, Some(ToClient::Detached { text })));
            }
        })
    }

    /// Resolves when the client has not answered for long enough.
    async fn keep_alive(&self) -> End {
        let mut missed = 0;
        loop {
            tokio::time::sleep(PING).await;
            if self.heard.swap(false, Ordering::Relaxed) {
                missed = 0;
            } else if !self.busy.load(Ordering::Relaxed) {
                missed += 1;
            }
            if missed >= MAX_MISSED {
                let text = "Timeout, client not responding.".to_owned();
                return End::Close(CloseCode::Silent, Some(ToClient::Error { text }));
            }
            self.ping.notify_one();
        }
    }
}

async fn output(sink: &mut Sink, mut data: Bytes) -> Result<(), axum::Error> {
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(PIECE));
        sink.send(Message::Binary(piece)).await?;
    }
    Ok(())
}

async fn say(sink: &mut Sink, message: &ToClient) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    sink.send(Message::Text(text.into())).await
}

/// Says the last thing, and waits for the client to have read it.
async fn close(sink: &mut Sink, stream: &mut Stream, code: CloseCode, last: Option<ToClient>) {
    if let Some(last) = last
        && say(sink, &last).await.is_err()
    {
        return;
    }
    let frame = CloseFrame { code: code as u16, reason: "".into() };
    if sink.send(Message::Close(Some(frame))).await.is_ok() {
        while let Some(Ok(_)) = stream.next().await {}
    }
}
