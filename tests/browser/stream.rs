//! A program's side of a command over a WebSocket, by TCP with a key; and WebSockets with whatever headers a test wants.

use std::net::TcpStream;

use sandgate_tests::Target;
use sandgate_tests::client::DEADLINE;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Error, Message, WebSocket};

/// Where commands are run in the sandbox of a [`Target`].
pub const STREAM: &str = "/api/v1/sandboxes/box/exec/stream";

/// What a command said, and how it ended.
#[derive(Default)]
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub texts: Vec<Value>,
    pub close: Option<u16>,
}

impl Said {
    #[track_caller]
    pub fn exit(&self) -> Value {
        assert_eq!(self.close, Some(1000), "{:?}", self.texts);
        self.texts.last().expect("an exit").clone()
    }

    pub fn take(&mut self, message: Message) {
        match message {
            Message::Binary(bytes) => match bytes.first() {
                Some(1) => self.stdout.extend_from_slice(&bytes[1..]),
                Some(2) => self.stderr.extend_from_slice(&bytes[1..]),
                other => panic!("output {other:?}"),
            },
            Message::Text(text) => self.texts.push(serde_json::from_str(&text).unwrap()),
            Message::Close(frame) => self.close = frame.map(|frame| frame.code.into()),
            _ => {}
        }
    }
}

/// A new key of this role.
pub fn key(target: &Target, role: &str) -> String {
    let made = target.gateway().json(&["api-key", "create", role, "--role", role]);
    made["key"].as_str().unwrap().to_owned()
}

/// A WebSocket at `path` with these headers and no others of ours; the status of a refusal.
pub fn connect(
    target: &Target,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocket<TcpStream>, u16> {
    let port = target.gateway().http_port;
    let mut request = format!("ws://127.0.0.1:{port}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match tungstenite::client::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// As a program elsewhere, with a key.
pub fn open(target: &Target, key: &str, more: &[(&'static str, &str)]) -> Result<WebSocket<TcpStream>, u16> {
    let bearer = format!("Bearer {key}");
    let usual = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "sandgate.exec.v1")];
    connect(target, STREAM, &[&usual, more].concat())
}

/// Asks for a command.
#[track_caller]
pub fn begin(target: &Target, key: &str, what: &Value) -> WebSocket<TcpStream> {
    let mut socket = open(target, key, &[]).expect("a WebSocket");
    socket.send(Message::Text(what.to_string().into())).unwrap();
    socket
}

/// Nothing more is typed.
#[track_caller]
pub fn eof(socket: &mut WebSocket<TcpStream>) {
    socket.send(Message::Text(json!({ "type": "eof" }).to_string().into())).unwrap();
}

/// Reads to the end.
#[track_caller]
pub fn rest(socket: &mut WebSocket<TcpStream>) -> Said {
    rest_with(socket, |_| ())
}

/// Reads to the end, and shows all that came so far after each message.
#[track_caller]
pub fn rest_with(socket: &mut WebSocket<TcpStream>, mut look: impl FnMut(&Said)) -> Said {
    let mut said = Said::default();
    loop {
        match socket.read() {
            Ok(message) => said.take(message),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => return said,
            Err(error) => panic!("{error}; {:?}", said.texts),
        }
        look(&said);
    }
}
