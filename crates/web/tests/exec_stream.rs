//! Commands over a WebSocket, as far as they go without a sandbox: how many there may be at once.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../gateway/tests/fake/mod.rs"]
mod fake;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::FakeDriver;
use sandgate_driver::Driver;
use sandgate_gateway::sandboxes::NewSandbox;
use sandgate_gateway::{Config, Gateway};
use sandgate_web::{ControlSocket, socket_path};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

const STREAM: &str = "/api/v1/sandboxes/box/exec/stream";
/// For one read.
const DEADLINE: Duration = Duration::from_secs(20);
/// For a place to come back. A stream on which nothing is said ends by itself after 10 s, which would prove nothing.
const SOON: Duration = Duration::from_secs(5);

struct Door {
    gateway: Arc<Gateway>,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

/// A gateway with one sandbox, which cannot be entered.
async fn door() -> Door {
    let directory = tempfile::tempdir().expect("a directory");
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::default());
    let config = Config::new(directory.path(), "/nowhere");
    let gateway = Gateway::build_with_drivers(config, vec![driver]).await.expect("a gateway");
    gateway.sandboxes.create(NewSandbox::new("box".parse().expect("a name"))).await.expect("made");
    let control = ControlSocket::bind(directory.path()).expect("a socket");
    tokio::spawn(control.serve(gateway.clone(), std::future::pending()));
    Door { gateway, socket: socket_path(directory.path()), _directory: directory }
}

impl Door {
    /// Takes all places but so many.
    fn leave(&self, free: usize) -> OwnedSemaphorePermit {
        let rest = u32::try_from(self.free() - free).expect("a number");
        self.gateway.streams.clone().try_acquire_many_owned(rest).expect("places")
    }

    fn free(&self) -> usize {
        self.gateway.streams.available_permits()
    }

    /// Waits for so many free places.
    fn becomes_free(&self, places: usize) -> bool {
        let end = Instant::now() + SOON;
        while self.free() != places {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// A stream on which nothing was said.
    fn open(&self) -> WebSocket<UnixStream> {
        let mut request = format!("ws://localhost{STREAM}").into_client_request().expect("a request");
        let protocol = "sandgate.exec.v1".parse().expect("a value");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        tungstenite::client::client(request, connect(&self.socket)).expect("a WebSocket").0
    }

    /// Status and words of a refusal.
    fn refused(&self) -> (String, String) {
        let mut stream = connect(&self.socket);
        write!(
            stream,
            "GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: sandgate.exec.v1\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let status = head.lines().next().expect("a status").to_owned();
        (status, body["detail"].as_str().expect("a detail").to_owned())
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Says one thing, and gives the code of the end.
fn ends(mut socket: WebSocket<UnixStream>, message: &'static str) -> u16 {
    socket.send(Message::Text(message.into())).expect("sent");
    loop {
        if let Message::Close(frame) = socket.read().expect("an answer") {
            return frame.expect("a code").code.into();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_more_than_there_are_places_for_is_refused() {
    let door = door().await;
    assert_eq!(door.free(), 512, "as docs/api.md has it");
    let _rest = door.leave(2);
    let look = tokio::task::spawn_blocking(move || {
        let (_first, second) = (door.open(), door.open());
        let words = "too many commands run over WebSockets at the moment; try again later";
        let refusal = ("HTTP/1.1 503 Service Unavailable".to_owned(), words.to_owned());
        assert_eq!(door.refused(), refusal);
        drop(second);
        assert!(door.becomes_free(1), "a client that vanished keeps its place");
        let _third = door.open();
        assert_eq!(door.refused(), refusal);
    });
    look.await.expect("looked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_gives_its_place_back() {
    let door = door().await;
    let _rest = door.leave(1);
    let look = tokio::task::spawn_blocking(move || {
        // A command that cannot be started, one that is none, and a client that says no more than that it goes.
        for (message, code) in [(r#"{"command":"true"}"#, 4004), ("{}", 4002), ("hello", 4002)] {
            assert_eq!(ends(door.open(), message), code, "{message}");
            assert!(door.becomes_free(1), "{message}: the place is kept");
        }
        let mut socket = door.open();
        assert_eq!(door.free(), 0);
        socket.close(None).expect("closed");
        assert!(door.becomes_free(1), "a client that closes keeps its place");
    });
    look.await.expect("looked");
}
