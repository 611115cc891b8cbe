//! The HTTP listener over real TCP: who is let in, with what, and what strangers get.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../gateway/tests/fake/mod.rs"]
mod fake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fake::FakeDriver;
use sandgate_driver::Driver;
use sandgate_gateway::api_keys::NewApiKey;
use sandgate_gateway::sandboxes::NewSandbox;
use sandgate_gateway::{Config, Gateway};
use sandgate_policy::Role;
use sandgate_web::{HttpServer, Operations};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Door {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

/// A gateway with one sandbox and an open HTTP listener.
async fn door(change: impl FnOnce(&mut Config)) -> Door {
    let directory = tempfile::tempdir().expect("a directory");
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::default());
    let mut config = Config::new(directory.path(), "/nowhere");
    change(&mut config);
    let gateway = Gateway::build_with_drivers(config, vec![driver]).await.expect("a gateway");
    gateway.sandboxes.create(NewSandbox::new("box".parse().expect("a name"))).await.expect("made");
    let server = HttpServer::bind("127.0.0.1:0".parse().expect("an address")).await.expect("bound");
    let address = server.address();
    gateway.set_http_address(address);
    tokio::spawn(server.serve(gateway.clone(), std::future::pending()));
    Door { gateway, address, _directory: directory }
}

impl Door {
    async fn key(&self, name: &str, role: Role) -> (String, String) {
        let new = NewApiKey { name: name.parse().expect("a name"), role, ttl: None };
        let created = self.gateway.api_keys.create(new).await.expect("a key");
        (created.row.id, created.key.reveal().to_owned())
    }

    /// One request on a connection of its own. `headers` are whole lines.
    async fn ask(&self, method: &str, path: &str, headers: &[String], body: Option<&Value>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for line in headers {
            request.push_str(line);
            request.push_str("\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        Answer::read(&text)
    }

    async fn with_key(&self, method: &str, path: &str, key: &str, body: Option<&Value>) -> Answer {
        self.ask(method, path, &[format!("Authorization: Bearer {key}")], body).await
    }

    fn origin(&self) -> String {
        format!("Origin: http://{}", self.address)
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        let body = self.body.trim();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn detail(&self) -> String {
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        self.json()["detail"].as_str().expect("a detail").to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// The cookie of a login, as it is sent back.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").expect("a cookie");
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    format!("Cookie: {}", set.split(';').next().expect("a value"))
}

#[tokio::test]
async fn every_operation_needs_a_key_and_every_change_more_than_a_viewers() {
    let door = door(|config| config.limits.source_penalties = false).await;
    let (_, viewer) = door.key("viewer", Role::Viewer).await;
    let (_, user) = door.key("user", Role::User).await;
    let document = door.ask("GET", "/api/v1/openapi.json", &[], None).await;
    assert_eq!(document.status, 200);
    let document = document.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document}");
    let mut changes = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = format!("/api/v1{}", path.replace("{name}", "box").replace("{id}", "x"));
        for method in item.as_object().expect("methods").keys().map(|word| word.to_uppercase()) {
            if path == "/api/v1/login" {
                continue;
            }
            let name = format!("{method} {path}");
            let unknown = door.ask(&method, &path, &[], None).await;
            assert_eq!(unknown.status, 401, "{name}");
            assert_eq!(unknown.header("www-authenticate"), Some("Bearer"), "{name}");
            unknown.detail();
            let wrong = door.with_key(&method, &path, "sgk_wrong", None).await;
            assert_eq!(wrong.status, 401, "{name}");
            // Checking a recording changes nothing, and to watch a terminal takes a ticket.
            let is_look = (method == "GET" && path != "/api/v1/api-keys")
                || path.ends_with("/verify")
                || path.ends_with("/tickets");
            if is_look {
                let seen = door.with_key(&method, &path, &viewer, Some(&json!({ "mode": "watch" }))).await;
                assert!(seen.status != 401 && seen.status != 403, "{name}: {seen:?}");
            } else if path != "/api/v1/logout" {
                changes += 1;
                let refused = door.with_key(&method, &path, &viewer, Some(&json!({}))).await;
                assert_eq!(refused.status, 403, "{name}");
                assert!(refused.detail().contains("yours is viewer"), "{name}");
            }
        }
    }
    assert!(changes > 15, "only {changes} changes were tried");
    for (method, path) in [
        ("POST", "/api/v1/sandboxes"),
        ("DELETE", "/api/v1/sandboxes/box"),
        ("POST", "/api/v1/keys"),
        ("POST", "/api/v1/images/pull"),
        ("GET", "/api/v1/api-keys"),
        ("POST", "/api/v1/api-keys"),
        ("POST", "/api/v1/login-codes"),
    ] {
        let refused = door.with_key(method, path, &user, Some(&json!({}))).await;
        assert_eq!(refused.status, 403, "{method} {path}");
        assert!(refused.detail().contains("needs the role admin"), "{method} {path}");
    }
    let started = door.with_key("POST", "/api/v1/sandboxes/box/start", &user, None).await;
    assert_eq!(started.json()["state"], "running");
    // What only the command line uses is not here at all.
    for path in ["/api/v1/sandboxes/box/link", "/api/v1/sandboxes/box/sftp"] {
        assert_eq!(door.with_key("POST", path, &user, None).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn what_is_done_is_in_the_audit_trail_under_its_callers_name() {
    let door = door(|_| {}).await;
    let (_, admin) = door.key("boss", Role::Admin).await;
    let token = json!({ "sandbox": "box", "label": "ci" });
    let made = door.with_key("POST", "/api/v1/tokens", &admin, Some(&token)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json()["token"].as_str().expect("a token").to_owned();
    let page = door.with_key("GET", "/api/v1/audit?action=token.", &admin, None).await;
    let entry = &page.json()["entries"][0];
    assert_eq!((&entry["action"], &entry["actor"]), (&json!("token.create"), &json!("api key boss")));
    assert_eq!(entry["sandbox"], "box");
    assert!(entry["client"].as_str().expect("an address").starts_with("127.0.0.1:"));
    assert!(!page.body.contains(&secret[..9]) && !page.body.contains(&admin[..9]));
    let one = door.with_key("GET", "/api/v1/audit?limit=1", &admin, None).await.json();
    let next = one["next"].as_i64().expect("there is more");
    let rest = door.with_key("GET", &format!("/api/v1/audit?before={next}"), &admin, None).await.json();
    assert!(rest["next"].is_null() && !rest["entries"].as_array().expect("rows").is_empty());
    for bad in ["limit=0", "limit=x", "colour=red", "limit=1001"] {
        let refused = door.with_key("GET", &format!("/api/v1/audit?{bad}"), &admin, None).await;
        assert_eq!(refused.status, 400, "{bad}");
        refused.detail();
    }
}

#[tokio::test]
async fn who_comes_to_a_terminal_and_who_looks_on_is_in_the_audit_trail() {
    let door = door(|_| {}).await;
    let (_, user) = door.key("typist", Role::User).await;
    let (_, viewer) = door.key("guest", Role::Viewer).await;
    let made = door.with_key("POST", "/api/v1/sandboxes/box/terminals", &user, Some(&json!({}))).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.json()["terminal"].as_str().expect("an id").to_owned();
    let tickets = format!("/api/v1/terminals/{id}/tickets");
    let mut secrets = vec![made.json()["ticket"].as_str().expect("a ticket").to_owned()];
    for (key, mode, status) in
        [(&user, "write", 201), (&viewer, "watch", 201), (&viewer, "write", 403), (&user, "own", 422)]
    {
        let issued = door.with_key("POST", &tickets, key, Some(&json!({ "mode": mode }))).await;
        assert_eq!(issued.status, status, "{mode}: {issued:?}");
        if status == 201 {
            secrets.push(issued.json()["ticket"].as_str().expect("a ticket").to_owned());
        }
    }
    let ended = door.with_key("DELETE", &format!("/api/v1/terminals/{id}"), &user, None).await;
    assert_eq!(ended.status, 204, "{ended:?}");
    let trail = door.with_key("GET", "/api/v1/audit?action=terminal.", &viewer, None).await;
    let trail_json = trail.json();
    let mut rows = Vec::new();
    for row in trail_json["entries"].as_array().expect("rows").iter().rev() {
        assert_eq!(row["sandbox"], "box", "{row}");
        let text = |field: &str| row[field].as_str().expect("a text").to_owned();
        rows.push((text("action"), text("actor"), text("detail")));
    }
    let row = |action: &str, actor: &str, detail: String| (action.to_owned(), actor.to_owned(), detail);
    let expected = [
        row("terminal.create", "api key typist", id.clone()),
        row("terminal.ticket", "api key typist", format!("{id}, to write")),
        row("terminal.ticket", "api key guest", format!("{id}, to watch")),
        row("terminal.end", "api key typist", id),
    ];
    assert_eq!(rows, expected);
    assert!(!secrets.iter().any(|secret| trail.body.contains(secret.as_str())), "a ticket is in the trail");
}

#[tokio::test]
async fn a_browser_logs_in_with_a_key_and_its_cookie_is_good_for_its_own_pages_alone() {
    let door = door(|config| config.limits.source_penalties = false).await;
    let (id, admin) = door.key("boss", Role::Admin).await;
    let login = door.ask("POST", "/api/v1/login", &[door.origin()], Some(&json!({ "key": admin }))).await;
    assert_eq!(login.status, 200, "{login:?}");
    assert_eq!(login.json(), json!({ "name": "api key boss", "role": "admin" }));
    let cookie = cookie(&login);
    assert!(!cookie.contains(&admin[4..]), "the cookie is not the key");
    let with = |lines: &[&str]| {
        let mut headers = vec![cookie.clone()];
        headers.extend(lines.iter().map(|line| (*line).to_owned()));
        headers
    };
    assert_eq!(door.ask("GET", "/api/v1/sandboxes", &with(&[]), None).await.status, 200);
    let start = "/api/v1/sandboxes/box/start";
    for foreign in [&[][..], &["Origin: http://evil.example"], &["Origin: null"]] {
        let refused = door.ask("POST", start, &with(foreign), None).await;
        assert_eq!(refused.status, 403, "{foreign:?}");
        assert!(refused.detail().contains("another origin"));
    }
    assert_eq!(door.ask("POST", start, &with(&[&door.origin()]), None).await.status, 200);
    // A page elsewhere cannot log a browser in either.
    let evil = ["Origin: http://evil.example".to_owned()];
    assert_eq!(door.ask("POST", "/api/v1/login", &evil, Some(&json!({ "key": admin }))).await.status, 403);

    let out = door.ask("POST", "/api/v1/logout", &with(&[&door.origin()]), None).await;
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").expect("it is taken away").contains("Max-Age=0"));
    let over = door.ask("GET", "/api/v1/sandboxes", &with(&[]), None).await;
    assert_eq!((over.status, over.detail().as_str()), (401, "You are not logged in any more."));

    // A login ends with its key.
    let again = door.ask("POST", "/api/v1/login", &[], Some(&json!({ "key": admin }))).await;
    let headers = [self::cookie(&again)];
    assert_eq!(door.ask("GET", "/api/v1/whoami", &headers, None).await.status, 200);
    door.gateway.api_keys.revoke(&id).await.expect("revoked");
    assert_eq!(door.ask("GET", "/api/v1/whoami", &headers, None).await.status, 401);
    let told = door.with_key("GET", "/api/v1/whoami", &admin, None).await;
    assert!(told.detail().starts_with("This API key was revoked at "), "{told:?}");
}

#[tokio::test]
async fn behind_a_proxy_with_tls_a_cookie_goes_by_https_alone() {
    let public = "https://box.example".to_owned();
    let door = door(move |config| config.http.public_url = Some(public)).await;
    let (_, admin) = door.key("boss", Role::Admin).await;
    let body = json!({ "key": admin });
    let set = |answer: &Answer| answer.header("set-cookie").expect("a cookie").to_owned();
    let by_proxy = door.ask("POST", "/api/v1/login", &[], Some(&body)).await;
    assert!(set(&by_proxy).ends_with("; Secure"), "{by_proxy:?}");
    // On the machine itself, past the proxy.
    let here = door.ask("POST", "/api/v1/login", &[door.origin()], Some(&body)).await;
    assert!(here.status == 200 && !set(&here).contains("Secure"), "{here:?}");
    let headers = [cookie(&here), door.origin()];
    assert_eq!(door.ask("POST", "/api/v1/sandboxes/box/start", &headers, None).await.status, 200);
    let out = door.ask("POST", "/api/v1/logout", &headers, None).await;
    assert!(out.status == 204 && !set(&out).contains("Secure"), "{out:?}");
}

#[tokio::test]
async fn a_login_link_is_good_once() {
    let door = door(|config| config.limits.source_penalties = false).await;
    let code = door.gateway.api_keys.login_code().await.expect("a code").reveal().to_owned();
    // A code is no key.
    assert_eq!(door.with_key("GET", "/api/v1/whoami", &code, None).await.status, 401);
    let body = json!({ "code": code });
    let login = door.ask("POST", "/api/v1/login", &[door.origin()], Some(&body)).await;
    assert_eq!(login.json(), json!({ "name": "local owner", "role": "admin" }));
    assert_eq!(door.ask("GET", "/api/v1/api-keys", &[cookie(&login)], None).await.status, 200);
    let used = door.ask("POST", "/api/v1/login", &[door.origin()], Some(&body)).await;
    assert!(used.status == 401 && used.detail().contains("used already"), "{used:?}");
    for nonsense in [json!({}), json!({ "key": "a", "code": "b" }), json!({ "colour": 1 }), json!(1)] {
        assert_eq!(door.ask("POST", "/api/v1/login", &[], Some(&nonsense)).await.status, 422, "{nonsense}");
    }
}

#[tokio::test]
async fn no_key_and_no_cookie_makes_a_login_that_outlives_its_key() {
    let door = door(|_| {}).await;
    let (_, admin) = door.key("boss", Role::Admin).await;
    let by_key = door.with_key("POST", "/api/v1/login-codes", &admin, None).await;
    assert_eq!(by_key.status, 403, "{by_key:?}");
    assert!(by_key.detail().contains("on the gateway's own machine"), "{by_key:?}");
    let login = door.ask("POST", "/api/v1/login", &[], Some(&json!({ "key": admin }))).await;
    let headers = [cookie(&login), door.origin()];
    assert_eq!(door.ask("POST", "/api/v1/login-codes", &headers, None).await.status, 403);
    // Not even that of the owner, who logs in by such a code.
    let code = door.gateway.api_keys.login_code().await.expect("a code").reveal().to_owned();
    let login = door.ask("POST", "/api/v1/login", &[], Some(&json!({ "code": code }))).await;
    let headers = [cookie(&login), door.origin()];
    assert_eq!(door.ask("POST", "/api/v1/login-codes", &headers, None).await.status, 403);
    let trail = door.with_key("GET", "/api/v1/audit?action=login-code.", &admin, None).await;
    let rows = trail.json()["entries"].as_array().expect("rows").len();
    assert_eq!(rows, 1, "only the one that was made: {trail:?}");
    assert!(!trail.body.contains(&code[..9]), "{trail:?}");
}

#[tokio::test]
async fn who_guesses_keys_is_sent_away_for_a_while() {
    let door = door(|_| {}).await;
    let (_, admin) = door.key("boss", Role::Admin).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(door.with_key("GET", "/api/v1/whoami", "sgk_guess", None).await.status);
    }
    assert_eq!(statuses.first(), Some(&401));
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    for wrong in [json!({ "key": "sgk_guess" }), json!({ "code": "sgl_guess" })] {
        let refused = door.ask("POST", "/api/v1/login", &[], Some(&wrong)).await;
        assert_eq!(refused.status, 429, "{refused:?}");
        assert!(refused.detail().contains("come back in"), "{refused:?}");
    }

    // Others behind the same proxy have the same address: what is right is served all the same.
    assert_eq!(door.with_key("GET", "/api/v1/whoami", &admin, None).await.status, 200);
    let login = door.ask("POST", "/api/v1/login", &[], Some(&json!({ "key": admin }))).await;
    assert_eq!(login.status, 200, "{login:?}");
    assert_eq!(door.ask("GET", "/api/v1/whoami", &[cookie(&login)], None).await.status, 200);
    let code = door.gateway.api_keys.login_code().await.expect("a code").reveal().to_owned();
    let by_code = door.ask("POST", "/api/v1/login", &[], Some(&json!({ "code": code }))).await;
    assert_eq!(by_code.status, 200, "{by_code:?}");
    // Who shows nothing, or a login that is over, has guessed nothing and is told how to come in.
    let none = door.ask("GET", "/api/v1/whoami", &[], None).await;
    assert!(none.status == 401 && none.detail().contains("needs an API key"), "{none:?}");
    let over = door.ask("GET", "/api/v1/whoami", &["Cookie: sandgate_session=x".to_owned()], None).await;
    assert!(over.status == 401 && over.detail().contains("not logged in any more"), "{over:?}");
}

#[tokio::test]
async fn all_errors_are_problems_and_no_answer_may_be_kept_or_framed() {
    let door = door(|_| {}).await;
    let (_, admin) = door.key("boss", Role::Admin).await;
    let missing = door.with_key("GET", "/api/v1/sandboxes/nosuch", &admin, None).await;
    assert_eq!(missing.json()["status"], 404);
    assert_eq!(missing.json()["type"], "about:blank");
    let wrong_method = door.with_key("PUT", "/api/v1/sandboxes", &admin, None).await;
    assert_eq!(wrong_method.status, 405);
    wrong_method.detail();
    assert!(wrong_method.header("allow").expect("the others").contains("POST"));
    let odd = door.with_key("DELETE", "/api/v1/sandboxes/box?force=perhaps", &admin, None).await;
    assert_eq!(odd.status, 400);
    odd.detail();
    assert_eq!(door.ask("POST", "/nowhere", &[], None).await.status, 404);
    assert_eq!(door.ask("GET", "/api/v2/nowhere", &[], None).await.status, 404);
    assert_eq!(door.ask("GET", "/assets/nowhere.js", &[], None).await.status, 404);
    let page = door.ask("GET", "/terminal/box", &[], None).await;
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(page.status == 200 && policy.contains("frame-ancestors 'none'"), "{page:?}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let embedded = door.ask("GET", "/embed/box", &[], None).await;
    assert!(embedded.header("content-security-policy").expect("a policy").contains("frame-ancestors 'self'"));
    assert_eq!(embedded.header("cross-origin-resource-policy"), Some("cross-origin"));
    let below = door.ask("GET", "/embed/box/more", &[], None).await;
    assert!(below.header("content-security-policy").expect("a policy").contains("frame-ancestors 'none'"));
    assert_eq!(below.header("cross-origin-resource-policy"), Some("same-origin"));
    let huge = json!({ "name": "x".repeat(3 << 20) });
    let too_long = door.with_key("POST", "/api/v1/sandboxes", &admin, Some(&huge)).await;
    assert_eq!(too_long.status, 413);
    too_long.detail();
    let list = door.with_key("GET", "/api/v1/sandboxes", &admin, None).await;
    assert_eq!(list.header("cache-control"), Some("no-store"));
    assert_eq!(list.header("x-content-type-options"), Some("nosniff"));
    assert!(list.header("content-security-policy").expect("a policy").contains("frame-ancestors 'none'"));
}

#[tokio::test]
async fn a_command_that_makes_no_sense_is_refused_before_anything_starts() {
    let door = door(|_| {}).await;
    let (_, user) = door.key("user", Role::User).await;
    for (body, says) in [
        (json!({}), "either a command or"),
        (json!({ "command": "true", "argv": ["true"] }), "either a command or"),
        (json!({ "argv": [] }), "either a command or"),
        (json!({ "command": "true", "timeout_seconds": 0 }), "time limit"),
        (json!({ "command": "true", "timeout_seconds": 3601 }), "time limit"),
        (json!({ "command": "cat", "stdin": "a", "stdin_base64": "YQ==" }), "twice"),
        (json!({ "command": "cat", "stdin_base64": "*" }), "not base64"),
    ] {
        let refused = door.with_key("POST", "/api/v1/sandboxes/box/exec", &user, Some(&body)).await;
        assert_eq!(refused.status, 422, "{body}: {refused:?}");
        assert!(refused.detail().contains(says), "{body}: {refused:?}");
    }
    let nowhere = door
        .with_key("POST", "/api/v1/sandboxes/nosuch/exec", &user, Some(&json!({ "command": "true" })))
        .await;
    assert_eq!(nowhere.status, 404);
}

#[tokio::test]
async fn only_so_many_commands_are_run_to_their_end_at_once() {
    let door = door(|_| {}).await;
    let (_, user) = door.key("user", Role::User).await;
    let places = door.gateway.one_shots.available_permits();
    assert_eq!(places, 16);
    let body = json!({ "command": "true" });
    let path = "/api/v1/sandboxes/box/exec";
    let held = door.gateway.one_shots.clone().try_acquire_many_owned(16).expect("they are free");
    let refused = door.with_key("POST", path, &user, Some(&body)).await;
    assert!(refused.status == 503 && refused.detail().contains("try again"), "{refused:?}");
    drop(held);
    // There is no sandbox behind this driver.
    let tried = door.with_key("POST", path, &user, Some(&body)).await;
    assert!(!tried.detail().contains("try again"), "{tried:?}");
    assert_eq!(door.gateway.one_shots.available_permits(), places, "it is given back");
}

#[tokio::test]
async fn the_pages_for_operations_need_no_key_and_move_to_their_own_listener() {
    let both = door(|_| {}).await;
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        assert_eq!(both.ask("GET", path, &[], None).await.status, 200, "{path}");
    }
    let apart =
        door(|config| config.operations_listen = Some("127.0.0.1:0".parse().expect("an address"))).await;
    let server = Operations::bind("127.0.0.1:0".parse().expect("an address")).await.expect("bound");
    let own =
        Door { address: server.address(), _directory: tempfile::tempdir().expect("a directory"), ..apart };
    tokio::spawn(server.serve(own.gateway.clone(), std::future::pending()));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(own.ask("GET", path, &[], None).await.status, 200, "{path}");
    }
    assert_eq!(own.ask("GET", "/api/v1/tokens", &[], None).await.status, 404);
    own.gateway.store.close().await;
    assert_eq!(own.ask("GET", "/readyz", &[], None).await.status, 503);
    assert_eq!(own.ask("GET", "/healthz", &[], None).await.status, 200);
}

#[tokio::test]
async fn with_an_own_listener_the_api_has_no_pages_for_operations() {
    let door =
        door(|config| config.operations_listen = Some("127.0.0.1:1".parse().expect("an address"))).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(door.ask("GET", path, &[], None).await.status, 404, "{path}");
    }
}

/// A stranger's connections end, so that one who has taken all the places gives them back.
#[tokio::test]
async fn who_sends_no_request_is_cut_off() {
    let door = door(|_| {}).await;
    // As many as it takes at once; some have begun to ask.
    let mut slow = Vec::new();
    for number in 0..128 {
        let mut stream = TcpStream::connect(door.address).await.expect("connected");
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.expect("sent");
        }
        slow.push(stream);
    }
    let honest = door.ask("GET", "/healthz", &[], None);
    let answer = tokio::time::timeout(Duration::from_secs(30), honest).await.expect("answered in the end");
    assert_eq!(answer.status, 200);
    for mut stream in slow {
        // The end, or the words of a refusal and then the end.
        let closed = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "a connection without a request is still open");
    }
}
