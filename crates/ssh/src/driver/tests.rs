#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::codec::Writer;
use crate::connection::numbers as msg;
use crate::event::{ChannelRequest, OpenFailure, ServerOpen, StreamKind};
use crate::testing::{ClientTransport, server_config};
use crate::transport::DisconnectReason;

/// A client at the other end of an in-memory pipe.
struct Client {
    transport: ClientTransport,
    stream: DuplexStream,
}

impl Client {
    async fn flush(&mut self) {
        let bytes = self.transport.take_output();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn send(&mut self, message: &Writer) {
        self.transport.send(message.as_slice());
        self.flush().await;
    }

    /// The next payload; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(payload) = self.transport.poll_payload() {
                return Some(payload);
            }
            self.flush().await;
            let mut buf = vec![0; 65536];
            match self.stream.read(&mut buf).await {
                Ok(len) if len > 0 => self.transport.receive(&buf[..len]),
                _ => return None,
            }
        }
    }

    async fn next_of_kind(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let payload = self.next().await.unwrap();
            if payload[0] == kind {
                return payload;
            }
        }
    }

    async fn log_in(&mut self) {
        let mut service = Writer::message(msg::SERVICE_REQUEST);
        service.string("ssh-userauth");
        self.flush().await;
        while !self.transport.is_established() {
            let mut buf = vec![0; 65536];
            let len = self.stream.read(&mut buf).await.unwrap();
            self.transport.receive(&buf[..len]);
            assert!(self.transport.poll_payload().is_none());
            self.flush().await;
        }
        self.send(&service).await;
        let mut none = Writer::message(msg::USERAUTH_REQUEST);
        none.string("u").string("ssh-connection").string("none");
        self.send(&none).await;
        self.next_of_kind(msg::USERAUTH_SUCCESS).await;
    }

    async fn open_session(&mut self, number: u32, window: u32) {
        let mut open = Writer::message(msg::CHANNEL_OPEN);
        open.string("session").u32(number).u32(window).u32(32768);
        self.send(&open).await;
        self.next_of_kind(msg::CHANNEL_OPEN_CONFIRMATION).await;
    }

    async fn data(&mut self, channel: u32, bytes: &[u8]) {
        let mut data = Writer::message(msg::CHANNEL_DATA);
        data.u32(channel).string(bytes);
        self.send(&data).await;
    }
}

fn setup(pipe: usize) -> (Client, Driver<DuplexStream>, ConnectionHandle) {
    let (ours, theirs) = duplex(pipe);
    let (driver, handle) = accept(ours, Arc::new(Config::new(Arc::new(server_config()))));
    (Client { transport: ClientTransport::new(), stream: theirs }, driver, handle)
}

/// Accepts the login and one channel, and gives the channel.
async fn first_channel(handle: &ConnectionHandle) -> Channel {
    loop {
        match handle.next_event().await.unwrap() {
            Event::Auth(question) => question.accept(),
            Event::Open(question) => return question.accept(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_in_one_task() {
    let (mut client, driver, handle) = setup(1000);
    let application = async {
        let Channel { mut requests, mut reader, mut writer } = first_channel(&handle).await;
        let Request { request, question } = requests.next().await.unwrap();
        assert_eq!(request, ChannelRequest::Exec { command: b"c".to_vec() });
        question.accept();
        let mut got = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut got).await.unwrap();
        assert_eq!(got.len(), 300_000);
        writer.write_all(StreamKind::Stdout, &got).await.unwrap();
        writer.write_all(StreamKind::Stderr, b"e").await.unwrap();
        writer.exit_status(3);
        writer.close();
        writer.closed().await;
        assert!(requests.next().await.is_none());
        drop((requests, reader, writer));
        handle.no_channels().await;
        assert!(matches!(handle.next_event().await, Some(Event::Ended(_))));
        assert!(handle.next_event().await.is_none());
    };
    let peer = async {
        client.log_in().await;
        client.open_session(5, u32::MAX).await;
        let mut exec = Writer::message(msg::CHANNEL_REQUEST);
        exec.u32(0).string("exec").bool(true).string("c");
        client.send(&exec).await;
        for _ in 0..30 {
            client.data(0, &[9; 10_000]).await;
        }
        let mut eof = Writer::message(msg::CHANNEL_EOF);
        eof.u32(0);
        client.send(&eof).await;
        let mut kinds = Vec::new();
        let mut bytes = 0;
        while kinds.last() != Some(&msg::CHANNEL_CLOSE) {
            let payload = client.next().await.unwrap();
            if payload[0] == msg::CHANNEL_DATA {
                bytes += payload.len() - 9;
            }
            kinds.push(payload[0]);
        }
        assert_eq!(bytes, 300_000);
        kinds.retain(|kind| {
            ![msg::CHANNEL_DATA, msg::CHANNEL_WINDOW_ADJUST, msg::GLOBAL_REQUEST].contains(kind)
        });
        assert_eq!(
            kinds,
            [
                msg::CHANNEL_SUCCESS,
                msg::CHANNEL_EXTENDED_DATA,
                msg::CHANNEL_REQUEST,
                msg::CHANNEL_EOF,
                msg::CHANNEL_CLOSE
            ]
        );
        let mut close = Writer::message(msg::CHANNEL_CLOSE);
        close.u32(0);
        client.send(&close).await;
        tokio::task::yield_now().await;
        drop(client);
    };
    let (ended, (), ()) = tokio::join!(driver, application, peer);
    assert!(matches!(ended.reason, EndReason::ClosedByPeer) && ended.authenticated);
}

#[tokio::test]
async fn dropped_questions_mean_no() {
    let (mut client, driver, handle) = setup(100_000);
    tokio::spawn(driver);
    let peer = tokio::spawn(async move {
        client.log_in().await;
        let mut open = Writer::message(msg::CHANNEL_OPEN);
        open.string("session").u32(1).u32(1).u32(1);
        client.send(&open).await;
        client.next_of_kind(msg::CHANNEL_OPEN_FAILURE).await;
        let mut forward = Writer::message(msg::GLOBAL_REQUEST);
        forward.string("tcpip-forward").bool(true).string("").u32(0);
        client.send(&forward).await;
        client.next_of_kind(msg::REQUEST_FAILURE).await;
        client.open_session(2, 10).await;
        let mut shell = Writer::message(msg::CHANNEL_REQUEST);
        shell.u32(0).string("shell").bool(true);
        client.send(&shell).await;
        client.next_of_kind(msg::CHANNEL_FAILURE).await;
        // The whole channel is dropped next.
        client.next_of_kind(msg::CHANNEL_CLOSE).await;
        client
    });
    let Some(Event::Auth(question)) = handle.next_event().await else { panic!("a login is expected") };
    question.accept();
    let Some(Event::Open(question)) = handle.next_event().await else { panic!("an open is expected") };
    drop(question);
    let Some(Event::Global(question)) = handle.next_event().await else { panic!("a forward is expected") };
    drop(question);
    let mut channel = first_channel(&handle).await;
    drop(channel.requests.next().await.unwrap());
    drop(channel);
    let mut client = peer.await.unwrap();
    // Without a handle the connection has no purpose any more, once the client has let its channel go.
    drop(handle);
    let mut close = Writer::message(msg::CHANNEL_CLOSE);
    close.u32(0);
    client.send(&close).await;
    while client.next().await.is_some() {}
    assert_eq!(client.transport.disconnected.unwrap().0, 11);
}

#[tokio::test]
async fn writers_wait_for_window_and_wake() {
    let (mut client, driver, handle) = setup(100_000);
    tokio::spawn(driver);
    let peer = tokio::spawn(async move {
        client.log_in().await;
        client.open_session(1, 10).await;
        let mut bytes = 0;
        while bytes < 100 {
            bytes += client.next_of_kind(msg::CHANNEL_DATA).await.len() - 9;
            let mut adjust = Writer::message(msg::CHANNEL_WINDOW_ADJUST);
            adjust.u32(0).u32(7);
            client.send(&adjust).await;
        }
        client
    });
    let mut channel = first_channel(&handle).await;
    channel.writer.write_all(StreamKind::Stdout, &[1; 100]).await.unwrap();
    let _client = peer.await.unwrap();
    handle.disconnect(DisconnectReason::ByApplication, "bye");
    let ended = handle.ended().await;
    assert!(matches!(ended.reason, EndReason::DisconnectedByUs { .. }));
    let error = poll_fn(|cx| channel.writer.poll_ready(cx)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(channel.reader.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(channel.requests.next().await.is_none());
    assert_eq!(handle.keepalive().await.unwrap_err().to_string(), "Disconnected: bye");
    let refused = handle.open(ServerOpen::AuthAgent).await.unwrap_err();
    assert_eq!(refused, OpenFailure::connect_failed("The connection has ended."));
}

#[tokio::test]
async fn channels_opened_by_us_and_keepalives() {
    let (mut client, driver, handle) = setup(100_000);
    tokio::spawn(driver);
    let peer = tokio::spawn(async move {
        client.log_in().await;
        let open = client.next_of_kind(msg::CHANNEL_OPEN).await;
        assert!(open.windows(10).any(|w| w == b"auth-agent"));
        let mut yes = Writer::message(msg::CHANNEL_OPEN_CONFIRMATION);
        yes.u32(0).u32(9).u32(10).u32(10);
        client.send(&yes).await;
        assert_eq!(client.next_of_kind(msg::CHANNEL_DATA).await[4], 9);
        client.next_of_kind(msg::GLOBAL_REQUEST).await;
        client.send(&Writer::message(msg::REQUEST_FAILURE)).await;
        client
    });
    let Some(Event::Auth(question)) = handle.next_event().await else { panic!("a login is expected") };
    question.accept();
    let mut channel = handle.open(ServerOpen::AuthAgent).await.unwrap();
    channel.writer.write_all(StreamKind::Stdout, b"hello").await.unwrap();
    handle.keepalive().await.unwrap();
    assert_eq!(handle.channels(), 1);
    drop(peer.await.unwrap());
    assert!(matches!(handle.ended().await.reason, EndReason::ClosedByPeer));
}

#[tokio::test]
async fn dropping_the_driver_ends_everything() {
    let (_client, driver, handle) = setup(1000);
    drop(driver);
    assert!(matches!(handle.ended().await.reason, EndReason::Abandoned));
    assert!(matches!(handle.next_event().await, Some(Event::Ended(_))));
}
