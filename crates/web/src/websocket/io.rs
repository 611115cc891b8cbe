//! Messages on their way: one by one from the client, and to a client that may have stopped to read.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::end::End;

/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long the last words may take to reach the client.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What a client is told that sends something else.
const NO_MESSAGE: &str = "That is no message of this protocol";

/// The way to a client.
pub(crate) type Sink = SplitSink<WebSocket, Message>;
/// The way from a client.
pub(crate) type Stream = SplitStream<WebSocket>;

/// What comes from a client.
pub(crate) enum Received {
    /// JSON, it is to be hoped.
    Text(Utf8Bytes),
    /// Bytes for the process.
    Binary(Bytes),
    /// A ping, which is answered by itself, or an answer to ours.
    Pulse,
}

/// What a client reads whose first message is not as the door wants it.
pub(crate) struct FirstWords {
    /// It did not come in time.
    pub(crate) late: &'static str,
    /// It is no text.
    pub(crate) binary: &'static str,
}

/// The next message.
pub(crate) async fn next<S>(stream: &mut S) -> Result<Received, End>
where
    S: futures_util::Stream<Item = Result<Message, axum::Error>> + Unpin,
{
    match stream.next().await {
        Some(Ok(Message::Text(text))) => Ok(Received::Text(text)),
        Some(Ok(Message::Binary(bytes))) => Ok(Received::Binary(bytes)),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Received::Pulse),
        Some(Ok(Message::Close(_))) | None => Err(End::Gone),
        Some(Err(_)) => Err(End::protocol(format!("{NO_MESSAGE}."))),
    }
}

/// The first message, which has to be text.
pub(crate) async fn first<S>(stream: &mut S, words: &FirstWords) -> Result<Utf8Bytes, End>
where
    S: futures_util::Stream<Item = Result<Message, axum::Error>> + Unpin,
{
    let first = async {
        loop {
            match next(stream).await? {
                Received::Text(text) => return Ok(text),
                Received::Binary(_) => return Err(End::protocol(words.binary)),
                Received::Pulse => {}
            }
        }
    };
    timeout(FIRST, first).await.unwrap_or_else(|_| Err(End::protocol(words.late)))
}

/// Reads a later message.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, End> {
    serde_json::from_str(text).map_err(|error| End::protocol(format!("{NO_MESSAGE}: {error}.")))
}

/// Tells the client something.
pub(crate) async fn say<S>(sink: &mut S, message: &impl Serialize) -> Result<(), axum::Error>
where
    S: futures_util::Sink<Message, Error = axum::Error> + Unpin,
{
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    sink.send(Message::Text(text.into())).await
}

/// Asks the client whether it is there.
pub(crate) async fn ping(sink: &mut Sink) -> Result<(), axum::Error> {
    sink.send(Message::Ping(Bytes::new())).await
}

/// Says the last thing and closes. A client that does not read is not waited for.
pub(crate) async fn finish<W, R>(sink: &mut W, stream: &mut R, end: End)
where
    W: futures_util::Sink<Message, Error = axum::Error> + Unpin,
    R: futures_util::Stream<Item = Result<Message, axum::Error>> + Unpin,
{
    let _ = timeout(LAST_WORDS, close(sink, stream, end)).await;
}

/// Waits for the client to have read the last thing.
async fn close<W, R>(sink: &mut W, stream: &mut R, end: End)
where
    W: futures_util::Sink<Message, Error = axum::Error> + Unpin,
    R: futures_util::Stream<Item = Result<Message, axum::Error>> + Unpin,
{
    let Some((code, last)) = end.last_words() else { return };
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};

    use futures_util::{sink, stream};
    use tokio::time::Instant;

    use super::super::end::CloseCode;
    use super::*;

    const WORDS: FirstWords = FirstWords { late: "Too late.", binary: "No bytes." };

    /// What comes of the first messages being these.
    async fn begins_with(messages: Vec<Result<Message, axum::Error>>) -> Result<Utf8Bytes, End> {
        first(&mut stream::iter(messages), &WORDS).await
    }

    #[tokio::test]
    async fn the_first_message_is_text_whatever_pings_come_before_it() {
        let pings = || vec![Ok(Message::Ping(Bytes::new())), Ok(Message::Pong(Bytes::new()))];
        let with = |last: Result<Message, axum::Error>| {
            let mut messages = pings();
            messages.push(last);
            messages
        };
        assert_eq!(begins_with(with(Ok(Message::Text("{}".into())))).await, Ok("{}".into()));
        let bytes = Message::Binary(Bytes::from_static(b"ls"));
        assert_eq!(begins_with(with(Ok(bytes))).await, Err(End::protocol("No bytes.")));
        assert_eq!(begins_with(with(Ok(Message::Close(None)))).await, Err(End::Gone));
        assert_eq!(begins_with(pings()).await, Err(End::Gone));
        let broken = Err(axum::Error::new(std::io::Error::other("a bit that may not be set")));
        let end = begins_with(with(broken)).await;
        assert_eq!(end, Err(End::protocol("That is no message of this protocol.")));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_refused_with_the_reason() {
        let Err(End::Ours(CloseCode::Protocol, Some(text))) = parse::<u32>("[]") else {
            panic!("not refused");
        };
        assert!(text.starts_with("That is no message of this protocol: invalid type"), "{text}");
        assert!(text.ends_with('.'), "{text}");
        assert_eq!(parse::<u32>("7"), Ok(7));
    }

    /// All that a client gets when its session ends so.
    async fn farewell(end: End) -> Vec<Message> {
        let sent = RefCell::new(Vec::new());
        let mut sink = sink::unfold((), |(), message: Message| {
            sent.borrow_mut().push(message);
            ready(Ok::<_, axum::Error>(()))
        });
        finish(&mut sink, &mut stream::empty(), end).await;
        drop(sink);
        sent.into_inner()
    }

    fn closed(code: u16) -> Message {
        Message::Close(Some(CloseFrame { code, reason: "".into() }))
    }

    #[tokio::test]
    async fn the_reason_comes_before_the_close() {
        let why = Message::Text(r#"{"type":"error","text":"Why."}"#.into());
        assert_eq!(farewell(End::ended("Why.")).await, [why, closed(4004)]);
        assert_eq!(farewell(End::Ours(CloseCode::Silent, None)).await, [closed(4008)]);
        assert!(farewell(End::Gone).await.is_empty());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_waited_for() {
        let began = Instant::now();
        let mut full = sink::unfold((), |(), _: Message| pending::<Result<(), axum::Error>>());
        finish(&mut full, &mut stream::empty(), End::ended("Why.")).await;
        // One that has read it all and stays is not either.
        let mut sink = sink::unfold((), |(), _: Message| ready(Ok::<_, axum::Error>(())));
        finish(&mut sink, &mut stream::pending(), End::ended("Why.")).await;
        let took = began.elapsed();
        assert!(took >= LAST_WORDS * 2 && took < LAST_WORDS * 4, "{took:?}");
    }
}
