//! Terminals for browsers over a real Unix socket, as far as they go without a sandbox.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../gateway/tests/fake/mod.rs"]
mod fake;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake::FakeDriver;
use sandgate_driver::Driver;
use sandgate_gateway::{Config, Gateway};
use sandgate_web::api::{NewSandbox, SandboxView};
use sandgate_web::client::{Client, ClientError};
use sandgate_web::{ControlSocket, socket_path};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

struct Api {
    directory: tempfile::TempDir,
    client: Client,
    gateway: Arc<Gateway>,
}

async fn api() -> Api {
    let directory = tempfile::tempdir().expect("a directory");
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::default());
    let config = Config::new(directory.path(), "/nowhere");
    let gateway = Gateway::build_with_drivers(config, vec![driver]).await.expect("a gateway");
    let socket = ControlSocket::bind(directory.path()).expect("a socket");
    tokio::spawn(socket.serve(gateway.clone(), std::future::pending()));
    let client = Client::new(directory.path());
    let new = NewSandbox::new("box".parse().expect("a name"));
    client.post::<SandboxView>("/api/v1/sandboxes", &new).await.expect("made");
    Api { directory, client, gateway }
}

fn said<T>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Refused(text)) => text,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().expect("a text")
}

/// Opens a WebSocket that asks for `protocol`; the status of a refusal.
fn connect(directory: &Path, protocol: &str) -> Result<WebSocket<UnixStream>, u16> {
    let stream = UnixStream::connect(socket_path(directory)).expect("the socket");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut request = "ws://localhost/api/v1/terminal".into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a value"));
    match tungstenite::client::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// Says one thing, and gives all that is answered with the code of the end.
fn talk(directory: &Path, message: Message) -> (Vec<Value>, u16) {
    let mut socket = connect(directory, "sandgate.terminal.v1").expect("a WebSocket");
    socket.send(message).expect("sent");
    let mut answers = Vec::new();
    loop {
        match socket.read().expect("an answer") {
            Message::Text(text) => answers.push(serde_json::from_str(&text).expect("JSON")),
            Message::Close(frame) => return (answers, frame.expect("a code").code.into()),
            _ => {}
        }
    }
}

fn attach(ticket: &str) -> Message {
    Message::Text(json!({ "type": "attach", "ticket": ticket, "cols": 80, "rows": 24 }).to_string().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_cannot_start_says_why_and_the_ticket_is_used() {
    let api = api().await;
    let path = api.directory.path().to_owned();
    let made: Value = api.client.post("/api/v1/sandboxes/box/terminals", &json!({})).await.expect("made");
    let listed: Vec<Value> = api.client.get("/api/v1/terminals").await.expect("a list");
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &made["terminal"]));
    assert_eq!((&listed[0]["session"], &listed[0]["attached"]), (&Value::Null, &json!(false)));
    let message = attach(text(&made, "ticket"));
    let again = message.clone();
    let there = path.clone();
    let (answers, code) = tokio::task::spawn_blocking(move || talk(&there, message)).await.expect("talked");
    assert_eq!(code, 4004);
    assert!(
        answers.iter().any(|answer| answer["type"] == "progress" && text(answer, "text") == "pretending")
    );
    let last = answers.last().expect("an error");
    assert_eq!(last["type"], "error");
    assert!(text(last, "text").contains("could not be started"), "{last}");
    let (answers, code) = tokio::task::spawn_blocking(move || talk(&path, again)).await.expect("talked");
    assert_eq!((code, answers.len()), (4001, 1));
    for _ in 0..100 {
        if api.gateway.registry.connection_count() == 0 && api.gateway.terminals.list().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("something of the failure stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_protocol_is_refused() {
    let api = api().await;
    let path = api.directory.path().to_owned();
    let ends = tokio::task::spawn_blocking(move || {
        assert_eq!(connect(&path, "chat").err(), Some(400));
        let says = |text: &str| Message::Text(text.to_owned().into());
        let attach = r#"{"type":"attach","ticket":"x","cols":80,"rows":24,"colour":1}"#;
        [says("{}"), says(attach), says(r#"{"type":"ping","id":1}"#), Message::Binary(vec![0].into())]
            .map(|message| talk(&path, message).1)
    });
    assert_eq!(ends.await.expect("talked"), [4002; 4]);
    assert!(said(api.client.get::<Value>("/api/v1/terminal").await).to_lowercase().contains("upgrade"));
}

#[tokio::test]
async fn mistakes_get_one_clear_sentence() {
    let api = api().await;
    let post = async |path: &str, body: Value| said(api.client.post::<Value>(path, &body).await);
    assert!(post("/api/v1/sandboxes/nosuch/terminals", json!({})).await.contains("no sandbox"));
    assert!(post("/api/v1/sandboxes/box/terminals", json!({ "columns": 1 })).await.contains("columns"));
    assert!(
        post("/api/v1/terminals/trm-x/tickets", json!({ "mode": "watch" }))
            .await
            .contains("no such terminal")
    );
    assert!(post("/api/v1/terminals/trm-x/tickets", json!({ "mode": "own" })).await.contains("own"));
    assert!(said(api.client.delete("/api/v1/terminals/trm-x").await).contains("no such terminal"));
    let made: Value = api.client.post("/api/v1/sandboxes/box/terminals", &json!({})).await.expect("made");
    api.client.delete(&format!("/api/v1/terminals/{}", text(&made, "terminal"))).await.expect("ended");
}
