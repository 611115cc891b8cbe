//! One WebSocket at a terminal.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use sandgate_gateway::Gateway;
use sandgate_gateway::session::Peer;
use sandgate_gateway::terminal::{self, Attachment, Mode, TerminalError};
use sandgate_guest::WindowSize;
use tokio::sync::mpsc;

use super::protocol::{FromClient, ToClient};
use crate::places::Newcomer;
use crate::websocket::{
    self, CloseCode, End, FirstWords, Keepalive, MAX_REPLIES, Notice, Received, Sink, Stream,
};

/// What the client reads that does not show a ticket.
const FIRST: FirstWords =
    FirstWords { late: "The ticket did not come in time.", binary: "The first message must be \"attach\"." };
/// What the client reads that had to make room.
const CROWDED: &str = "Too many connections that have not shown a ticket.";
/// Largest message of output, in bytes: what is on the screen is acknowledged by message.
const PIECE: usize = 32 * 1024;
/// A full reset, for an emulator that does not know that a picture of the screen follows.
const RESET: &[u8] = b"\x1bc";

/// Serves a connection to its end. `place` is given back when a ticket was shown.
pub(super) async fn serve(gateway: Arc<Gateway>, socket: WebSocket, peer: Option<Peer>, place: Newcomer) {
    let (mut sink, mut stream) = socket.split();
    let ticket = tokio::select! {
        ticket = ticket(&mut stream) => ticket,
        () = place.evicted() => Err(End::Ours(CloseCode::Ticket, Some(CROWDED.to_owned()))),
    };
    let end = match ticket {
        Err(end) => end,
        Ok((ticket, size)) => {
            drop(place);
            match gateway.terminals.attach(&gateway, &ticket, size, peer) {
                Ok(attachment) => attached(&mut sink, &mut stream, attachment).await,
                Err(error) => refused(&error),
            }
        }
    };
    websocket::finish(&mut sink, &mut stream, end).await;
}

fn refused(error: &TerminalError) -> End {
    let code = match error {
        TerminalError::Ticket => CloseCode::Ticket,
        _ => CloseCode::Ended,
    };
    End::Ours(code, Some(error.to_string()))
}

/// The ticket, and the size of the client's window.
async fn ticket(stream: &mut Stream) -> Result<(String, WindowSize), End> {
    let text = websocket::first(stream, &FIRST).await?;
    match serde_json::from_str(&text) {
        Ok(FromClient::Attach { ticket, cols, rows, xpixel, ypixel }) => {
            Ok((ticket, WindowSize { cols, rows, xpixel, ypixel }))
        }
        // The parser's own words could hold a part of the ticket.
        _ => Err(End::protocol("The first message must be a complete \"attach\".")),
    }
}

/// What both directions share.
struct Connection {
    attachment: Attachment,
    keepalive: Keepalive,
    replies: mpsc::Sender<Notice>,
}

async fn attached(sink: &mut Sink, stream: &mut Stream, attachment: Attachment) -> End {
    let (replies, waiting) = mpsc::channel(MAX_REPLIES);
    let connection = Connection { attachment, keepalive: Keepalive::default(), replies };
    tokio::select! {
        end = connection.read(stream) => end,
        end = connection.write(sink, waiting) => end,
        end = connection.keepalive.silence() => end,
        reason = connection.attachment.ended() => End::ended(reason.text()),
    }
}

impl Connection {
    async fn read(&self, stream: &mut Stream) -> End {
        loop {
            let received = match websocket::next(stream).await {
                Ok(received) => received,
                Err(end) => return end,
            };
            self.keepalive.heard();
            let result = match received {
                Received::Binary(data) => self.typed(data).await,
                Received::Text(text) => match websocket::parse(&text) {
                    Ok(said) => self.said(said).await,
                    Err(end) => Err(end),
                },
                Received::Pulse => Ok(()),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn typed(&self, data: Bytes) -> Result<(), End> {
        if self.attachment.mode() == Mode::Watch {
            return self
                .reply(Notice::Error { text: "You are watching: what you type goes nowhere.".to_owned() });
        }
        self.keepalive.while_busy(self.attachment.input(data)).await;
        Ok(())
    }

    async fn said(&self, message: FromClient) -> Result<(), End> {
        match message {
            FromClient::Attach { .. } => return Err(End::protocol("This connection is attached already.")),
            FromClient::Resize(size) => self.attachment.resize(size.into()).await,
            FromClient::Ack { bytes } => {
                self.attachment.acknowledge(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            FromClient::Ping { id } => return self.reply(Notice::Pong { id }),
        }
        Ok(())
    }

    /// A client that asks and does not read is taken for silent, and would not read why.
    fn reply(&self, notice: Notice) -> Result<(), End> {
        self.replies.try_send(notice).map_err(|_| End::Ours(CloseCode::Silent, None))
    }

    async fn write(&self, sink: &mut Sink, mut replies: mpsc::Receiver<Notice>) -> End {
        // The client resets its emulator for the first picture only.
        let mut reset = false;
        loop {
            let sent = tokio::select! {
                message = self.attachment.next() => match message {
                    None => return End::ended("The terminal has ended."),
                    Some(message) => match self.tell(sink, message, &mut reset).await {
                        Ok(sent) => sent,
                        Err(end) => return end,
                    },
                },
                Some(reply) = replies.recv() => websocket::say(sink, &reply).await,
                () = self.keepalive.due() => websocket::ping(sink).await,
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
            terminal::Message::Progress(text) => websocket::say(sink, &Notice::Progress { text }).await,
            terminal::Message::Resize { cols, rows } => {
                websocket::say(sink, &ToClient::Resize { cols, rows }).await
            }
            terminal::Message::Ready { session, resumed, cols, rows, since } => {
                let mode = self.attachment.mode().into();
                let terminal = self.attachment.terminal().map(str::to_owned);
                let ready = ToClient::Ready { terminal, session, mode, resumed, cols, rows, since };
                websocket::say(sink, &ready).await
            }
            terminal::Message::Exit(status) => return Err(End::Exit(status)),
            terminal::Message::Ended(text) => return Err(End::ended(text)),
            terminal::Message::Detached => {
                let text = "Another page has taken over this terminal.".to_owned();
                return Err(End::Ours(CloseCode::Detached, Some(text)));
            }
        })
    }
}

async fn output(sink: &mut Sink, mut data: Bytes) -> Result<(), axum::Error> {
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(PIECE));
        sink.send(Message::Binary(piece)).await?;
    }
    Ok(())
}
