//! The control API over a real Unix socket, with a driver without sandboxes.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../gateway/tests/fake/mod.rs"]
mod fake;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use fake::FakeDriver;
use sandgate_driver::Driver;
use sandgate_gateway::{Config, Gateway};
use sandgate_guest::{DialSpec, ExecSpec, Guest, GuestError, Program};
use sandgate_web::api::{
    AddKey, CreateToken, KeyView, LoginLink, NewSandbox, SandboxView, SessionView, SftpRequest, Status,
    TokenCreated, TokenView,
};
use sandgate_web::client::{Client, ClientError};
use sandgate_web::{ControlSocket, LinkDial, socket_path};

struct Api {
    directory: tempfile::TempDir,
    client: Client,
    gateway: Arc<Gateway>,
}

async fn api() -> Api {
    let directory = tempfile::tempdir().expect("a directory");
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::default());
    let gateway = Gateway::build_with_drivers(Config::new(directory.path(), "/nowhere"), vec![driver])
        .await
        .expect("a gateway");
    let socket = ControlSocket::bind(directory.path()).expect("a socket");
    tokio::spawn(socket.serve(gateway.clone(), std::future::pending()));
    Api { client: Client::new(directory.path()), directory, gateway }
}

fn said<T>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Refused(text)) => text,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

async fn make(api: &Api, name: &str) -> SandboxView {
    api.client.post("/api/v1/sandboxes", &NewSandbox::new(name.parse().expect("a name"))).await.expect("made")
}

fn wish(sandbox: &str) -> CreateToken {
    CreateToken {
        sandbox: sandbox.to_owned(),
        ttl_seconds: None,
        scopes: None,
        label: "ci".parse().expect("a label"),
        sources: Default::default(),
        files: Default::default(),
        forward: Default::default(),
        record: Default::default(),
    }
}

#[tokio::test]
async fn the_life_of_a_sandbox() {
    let api = api().await;
    let made = make(&api, "box").await;
    assert_eq!((made.name.as_str(), made.state.as_str()), ("box", "created"));
    let started: SandboxView = api.client.post("/api/v1/sandboxes/box/start", &()).await.expect("started");
    assert_eq!(
        (started.state.as_str(), started.warnings.as_slice()),
        ("running", ["no limits".to_owned()].as_slice())
    );
    assert!(said(api.client.delete("/api/v1/sandboxes/box").await).contains("--force"));
    let stopped: SandboxView = api.client.post("/api/v1/sandboxes/box/stop", &()).await.expect("stopped");
    assert_eq!((stopped.state.as_str(), stopped.reason.as_deref()), ("stopped", Some("stopped on request")));
    let text = serde_json::to_string(&stopped).expect("JSON");
    assert!(!text.contains("running"), "scripts look for the word: {text}");
    let list: Vec<SandboxView> = api.client.get("/api/v1/sandboxes").await.expect("a list");
    assert_eq!(list.len(), 1);
    api.client.delete("/api/v1/sandboxes/box").await.expect("removed");
    assert!(
        said(api.client.get::<SandboxView>("/api/v1/sandboxes/box").await).contains("no sandbox \"box\"")
    );
}

#[tokio::test]
async fn mistakes_get_one_clear_sentence() {
    let api = api().await;
    make(&api, "box").await;
    let again = NewSandbox::new("box".parse().expect("a name"));
    assert!(
        said(api.client.post::<SandboxView>("/api/v1/sandboxes", &again).await).contains("already a sandbox")
    );
    let bad = serde_json::json!({ "name": "Bad_Name" });
    assert!(said(api.client.post::<SandboxView>("/api/v1/sandboxes", &bad).await).contains("lower-case"));
    let odd = serde_json::json!({ "name": "ok", "colour": 1 });
    assert!(said(api.client.post::<SandboxView>("/api/v1/sandboxes", &odd).await).contains("colour"));
    let no_driver = serde_json::json!({ "name": "ok", "driver": "magic" });
    assert!(
        said(api.client.post::<SandboxView>("/api/v1/sandboxes", &no_driver).await)
            .contains("no driver \"magic\"")
    );
    assert!(
        said(api.client.post::<TokenCreated>("/api/v1/tokens", &wish("nosuch")).await).contains("no sandbox")
    );
    let long = CreateToken { ttl_seconds: Some(u64::MAX), ..wish("box") };
    assert!(said(api.client.post::<TokenCreated>("/api/v1/tokens", &long).await).contains("720 hours"));
    assert!(said(api.client.delete("/api/v1/tokens/tok-x").await).contains("no token"));
    assert!(said(api.client.delete("/api/v1/sessions/ses-x").await).contains("no live session"));
    assert!(said(api.client.get::<Status>("/api/v1/nothing").await).contains("nothing at /api/v1/nothing"));
}

#[tokio::test]
async fn a_token_is_shown_once() {
    let api = api().await;
    make(&api, "box").await;
    api.gateway.set_ssh_address("127.0.0.1:2299".parse().expect("an address"));
    let created: TokenCreated = api.client.post("/api/v1/tokens", &wish("box")).await.expect("a token");
    assert_eq!(created.ssh_command, format!("ssh -p 2299 {}@127.0.0.1", created.token));
    assert!(!format!("{created:?}").contains(&created.token));
    let listed = api.client.get_text("/api/v1/tokens").await.expect("a list");
    assert!(!listed.contains(&created.token[..9]), "{listed}");
    let tokens: Vec<TokenView> = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((tokens[0].id.as_str(), tokens[0].state.as_str()), (created.id.as_str(), "active"));
    assert_eq!((tokens[0].sandbox.as_str(), tokens[0].label.as_str()), ("box", "ci"));
    api.client.delete(&format!("/api/v1/tokens/{}", created.id)).await.expect("revoked");
    let tokens: Vec<TokenView> = api.client.get("/api/v1/tokens").await.expect("a list");
    assert_eq!(tokens[0].state, "revoked");
    api.gateway.store.flush().await;
    let audit = api.gateway.store.audit_tail(10).await.expect("rows");
    let actions: Vec<&str> = audit.iter().rev().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["sandbox.create", "token.create", "token.revoke"]);
}

#[tokio::test]
async fn a_login_code_is_made_here_and_leaves_a_trace() {
    let api = api().await;
    let link: LoginLink = api.client.post("/api/v1/login-codes", &()).await.expect("a code");
    assert!(link.code.starts_with("sgl_") && link.url.is_none(), "nothing serves HTTP");
    api.gateway.api_keys.login_by_code(link.code.as_bytes()).expect("it is good");
    api.gateway.store.flush().await;
    let audit = api.gateway.store.audit_tail(10).await.expect("rows");
    let rows: Vec<(&str, &str)> = audit.iter().map(|row| (row.action.as_str(), row.actor.as_str())).collect();
    assert_eq!(rows, [("login-code.create", "local owner")]);
    assert!(!audit.iter().any(|row| row.detail.contains(&link.code[..9])));
}

#[tokio::test]
async fn keys_and_sessions() {
    let api = api().await;
    make(&api, "box").await;
    let public_key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me@here".to_owned();
    let add = AddKey {
        name: "me".parse().expect("a name"),
        public_key,
        sandboxes: vec!["box".to_owned()],
        cert_authority: None,
    };
    let added: KeyView = api.client.post("/api/v1/keys", &add).await.expect("added");
    assert_eq!(added.sandboxes, Some(vec!["box".to_owned()]));
    assert!(said(api.client.post::<KeyView>("/api/v1/keys", &add).await).contains("already a key"));
    let keys: Vec<KeyView> = api.client.get("/api/v1/keys").await.expect("a list");
    assert_eq!(keys[0].fingerprint, "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ");
    api.client.delete("/api/v1/keys/me").await.expect("removed");
    assert!(said(api.client.delete("/api/v1/keys/me").await).contains("no key"));
    let sessions: Vec<SessionView> = api.client.get("/api/v1/sessions").await.expect("a list");
    assert!(sessions.is_empty());
}

#[tokio::test]
async fn status_and_ssh_config_name_the_host_keys() {
    let api = api().await;
    make(&api, "box").await;
    let status: Status = api.client.get("/api/v1/status").await.expect("a status");
    assert_eq!((status.pid, status.host_keys.len()), (std::process::id(), 2));
    let config = api.client.get_text("/api/v1/sandboxes/box/ssh-config").await.expect("text");
    assert!(config.starts_with("Host box\n"));
    for key in &status.host_keys {
        assert!(config.contains(&format!("# known_hosts: [127.0.0.1]:2222 {key}\n")), "{config}");
    }
    assert!(said(api.client.get_text("/api/v1/sandboxes/nosuch/ssh-config").await).contains("no sandbox"));
}

#[tokio::test]
async fn links_and_sftp_say_what_is_wrong() {
    let api = api().await;
    make(&api, "box").await;
    assert!(said(api.client.link("nosuch").await.map(drop)).contains("no sandbox"));
    assert!(said(api.client.post::<()>("/api/v1/sandboxes/box/link", &()).await).contains("an upgrade"));
    let dial = LinkDial::new(api.client.clone(), "box").await.expect("a link");
    let guest = Guest::new(Arc::new(dial));
    let refused = |result: Result<(), GuestError>| match result {
        Err(GuestError::Refused { text, .. }) => text,
        other => panic!("not refused: {other:?}"),
    };
    let exec = |argv: Vec<Vec<u8>>| guest.exec(ExecSpec::new(Program::Argv(argv)));
    assert!(refused(exec(vec![b"true".to_vec()]).await.map(drop)).contains("could not be started"));
    assert!(refused(exec(Vec::new()).await.map(drop)).contains("no command"));
    let dialed = guest.dial(DialSpec::tcp("localhost", 1)).await.map(drop);
    let why = refused(dialed);
    assert!(why.contains("sandbox"), "{why}");
    let files = SftpRequest::default();
    assert!(said(api.client.sftp("nosuch", &files).await.map(drop)).contains("no sandbox"));
    assert!(said(api.client.sftp("box", &files).await.map(drop)).contains("could not be started"));
    assert!(said(api.client.post::<()>("/api/v1/sandboxes/box/sftp", &files).await).contains("an upgrade"));
    for _ in 0..100 {
        if api.gateway.registry.connection_count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("something of the failures stays");
}

#[tokio::test]
async fn only_the_owner_can_reach_the_socket_and_a_stale_one_is_replaced() {
    let api = api().await;
    let path = socket_path(api.directory.path());
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(api.directory.path())), (0o600, 0o700));
    let stale = tempfile::tempdir().expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(socket_path(stale.path())).expect("bound"));
    match Client::new(stale.path()).get::<Status>("/api/v1/status").await {
        Err(error @ ClientError::NotRunning { .. }) => {
            assert!(error.to_string().contains("serve"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    drop(ControlSocket::bind(stale.path()).expect("replaced"));
    let long = stale.path().join("x".repeat(120));
    assert!(ControlSocket::bind(&long).err().expect("too long").to_string().contains("too long"));
}
