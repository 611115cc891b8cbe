//! The services of the gateway over a driver without sandboxes.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod fake;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fake::FakeDriver;
use parking_lot::Mutex;
use sandgate_driver::{Driver, NoProgress, Progress};
use sandgate_gateway::sandboxes::{NewSandbox, Removal, SandboxError};
use sandgate_gateway::tokens::{CreatedToken, NewToken};
use sandgate_gateway::{BuildError, Config, Gateway};
use sandgate_policy::{DenyReason, Scopes, SourceNetworks, Token, WrittenRules};
use time::Duration;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@example";

fn here() -> IpAddr {
    "192.0.2.7".parse().expect("an address")
}

async fn gateway(directory: &Path) -> (Arc<Gateway>, Arc<FakeDriver>) {
    let driver = Arc::new(FakeDriver::default());
    (gateway_with(directory, driver.clone()).await, driver)
}

async fn gateway_with(directory: &Path, driver: Arc<FakeDriver>) -> Arc<Gateway> {
    let driver: Arc<dyn Driver> = driver;
    Gateway::build_with_drivers(Config::new(directory, "/nowhere"), vec![driver]).await.expect("a gateway")
}

async fn make(gateway: &Gateway, name: &str) -> String {
    let info = gateway.sandboxes.create(NewSandbox::new(name.parse().expect("a name"))).await.expect("made");
    info.spec.id.to_string()
}

async fn token(gateway: &Gateway, sandbox: &str, ttl: Duration, sources: &[&str]) -> CreatedToken {
    gateway.tokens.create(wish(sandbox, ttl, sources)).await.expect("a token")
}

fn wish(sandbox: &str, ttl: Duration, sources: &[&str]) -> NewToken {
    NewToken {
        sandbox: sandbox.to_owned(),
        ttl: Some(ttl),
        scopes: Some(Scopes::all()),
        files: sandgate_policy::FileAccess::default(),
        forward: sandgate_policy::ForwardRules::default(),
        record: sandgate_policy::RecordMode::Off,
        label: "test".parse().expect("a label"),
        sources: SourceNetworks::parse(sources).expect("networks"),
    }
}

fn blob() -> Vec<u8> {
    ssh_key::PublicKey::from_openssh(KEY).expect("a key").to_bytes().expect("a blob")
}

#[tokio::test]
async fn a_token_opens_its_own_sandbox_and_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, _) = gateway(directory.path()).await;
    let (one, _two) = (make(&gateway, "one").await, make(&gateway, "two").await);
    let created = token(&gateway, "one", Duration::HOUR, &[]).await;
    let principal = gateway.access.by_token(created.token.reveal().as_bytes(), here()).await.expect("in");
    assert_eq!((principal.sandbox_id, principal.sandbox_name.as_str()), (one, "one"));
    // The expiry comes back from the store in whole milliseconds.
    let expires = principal.expires_at.expect("an end");
    assert!((created.row.expires_at - expires).abs() < Duration::MILLISECOND);
}

#[tokio::test]
async fn strangers_learn_nothing_and_former_holders_learn_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, _) = gateway(directory.path()).await;
    make(&gateway, "box").await;
    let denied =
        async |presented: &[u8]| gateway.access.by_token(presented, here()).await.expect_err("denied");

    let stranger = Token::generate().expect("random");
    for (presented, reason) in [
        (stranger.reveal().as_bytes(), DenyReason::UnknownToken),
        (&stranger.reveal().as_bytes()[..30], DenyReason::Mistyped),
        (b"sg_", DenyReason::Mistyped),
        (b"box", DenyReason::NotAToken),
        (b"", DenyReason::NotAToken),
    ] {
        let denied = denied(presented).await;
        assert_eq!((denied.log, denied.public), (reason, None));
    }

    let elsewhere = token(&gateway, "box", Duration::HOUR, &["198.51.100.0/24"]).await;
    assert_eq!(denied(elsewhere.token.reveal().as_bytes()).await.log, DenyReason::SourceNotAllowed);

    let short = token(&gateway, "box", Duration::SECOND, &[]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let expired = denied(short.token.reveal().as_bytes()).await;
    assert_eq!(expired.log, DenyReason::Expired);
    assert!(expired.public.expect("told").contains("expired at"));

    let taken = token(&gateway, "box", Duration::HOUR, &[]).await;
    gateway.tokens.revoke(&taken.row.id).await.expect("revoked");
    let revoked = denied(taken.token.reveal().as_bytes()).await;
    assert_eq!(revoked.log, DenyReason::Revoked);
    assert!(revoked.public.is_some());
}

#[tokio::test]
async fn a_revocation_ends_what_is_live_and_what_is_just_coming_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, _) = gateway(directory.path()).await;
    make(&gateway, "box").await;
    let created = token(&gateway, "box", Duration::HOUR, &[]).await;
    let other = token(&gateway, "box", Duration::HOUR, &[]).await;
    let principal = gateway.access.by_token(created.token.reveal().as_bytes(), here()).await.expect("in");
    let unharmed = gateway.access.by_token(other.token.reveal().as_bytes(), here()).await.expect("in");
    let connection = gateway.registry.connect(principal.clone());
    assert!(gateway.access.revoked_meanwhile(&principal).is_none());

    assert_eq!(gateway.tokens.revoke(&created.row.id).await.expect("revoked"), 1);
    let reason = connection.end_signal().ended().await;
    assert!(reason.text().contains("revoked"), "{}", reason.text());
    assert!(gateway.access.revoked_meanwhile(&principal).is_some());
    assert!(gateway.access.revoked_meanwhile(&unharmed).is_none());
}

#[tokio::test]
async fn rules_for_forwarding_come_with_the_login() {
    let directory = tempfile::tempdir().expect("a directory");
    let driver = Arc::new(FakeDriver::default());
    let of_token = WrittenRules { permit_listen: Some(vec!["8080".into()]), ..WrittenRules::default() };
    let of_sandbox = WrittenRules { permit_open: Some(vec!["db:5432".into()]), ..WrittenRules::default() };
    let secret = {
        let gateway = gateway_with(directory.path(), driver.clone()).await;
        let mut new = NewSandbox::new("box".parse().expect("a name"));
        new.forward = of_sandbox.clone().try_into().expect("rules");
        gateway.sandboxes.create(new).await.expect("made");
        gateway.keys.add("me".parse().expect("a name"), KEY, &[], None).await.expect("added");
        let mut new = wish("box", Duration::HOUR, &[]);
        new.forward = of_token.clone().try_into().expect("rules");
        let created = gateway.tokens.create(new.clone()).await.expect("a token");
        new.scopes = Some("shell".parse().expect("scopes"));
        let refused = gateway.tokens.create(new).await.expect_err("rules without their scope");
        assert!(refused.to_string().contains("forward"), "{refused}");
        gateway.close().await;
        created.token.reveal().to_owned()
    };
    // From the store, and not from what this process knows.
    let gateway = gateway_with(directory.path(), driver).await;
    let by_token = gateway.access.by_token(secret.as_bytes(), here()).await.expect("in").forward;
    assert_eq!(WrittenRules::from(by_token.credential), of_token);
    assert_eq!(WrittenRules::from(by_token.sandbox), of_sandbox);
    let by_key = gateway.access.by_key(b"box", &blob(), here()).await.expect("in").forward;
    assert!(by_key.credential.is_empty());
    assert_eq!(WrittenRules::from(by_key.sandbox), of_sandbox);
    let info = gateway.sandboxes.inspect("box").await.expect("there");
    assert_eq!(WrittenRules::from(info.forward), of_sandbox);
}

#[tokio::test]
async fn a_key_opens_what_it_was_added_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, _) = gateway(directory.path()).await;
    make(&gateway, "one").await;
    make(&gateway, "two").await;
    let ask = async |sandbox: &[u8]| {
        gateway.access.by_key(sandbox, &blob(), here()).await.map_err(|denied| denied.log)
    };

    assert_eq!(ask(b"one").await.expect_err("no key yet"), DenyReason::UnknownKey);
    gateway.keys.add("me".parse().expect("a name"), KEY, &["one".to_owned()], None).await.expect("added");
    assert_eq!(ask(b"one").await.expect("in").sandbox_name, "one");
    for closed in [b"two".as_slice(), b"nosuch", b"", b"\xff", &[b'a'; 5000]] {
        assert_eq!(ask(closed).await.expect_err("closed"), DenyReason::KeyNotForSandbox);
    }

    // A key that was for one sandbox is for none when that is gone, also not for a new one of the same name.
    gateway.sandboxes.remove("one", Removal::IfStopped).await.expect("removed");
    make(&gateway, "one").await;
    assert_eq!(ask(b"one").await.expect_err("closed"), DenyReason::KeyNotForSandbox);
    assert_eq!(ask(b"two").await.expect_err("closed"), DenyReason::KeyNotForSandbox);

    gateway.keys.remove("me").await.expect("removed");
    gateway.keys.add("me".parse().expect("a name"), KEY, &[], None).await.expect("added");
    assert!(ask(b"one").await.is_ok() && ask(b"two").await.is_ok());
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn step(&self, text: &str) {
        self.0.lock().push(text.to_owned());
    }

    fn warn(&self, text: &str) {
        self.0.lock().push(text.to_owned());
    }
}

#[tokio::test]
async fn callers_share_one_start_and_all_are_told_why_they_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, driver) = gateway(directory.path()).await;
    let id = make(&gateway, "box").await;
    let told = Told::default();
    let (one, two) = tokio::join!(
        gateway.sandboxes.ensure_running(&id, &told),
        gateway.sandboxes.ensure_running(&id, &told)
    );
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(driver.starts.load(Ordering::SeqCst), 1);
    assert_eq!(told.0.lock().iter().filter(|line| line.as_str() == "pretending").count(), 2);
    assert!(gateway.sandboxes.ensure_running(&id, &told).await.is_ok());
    assert_eq!(driver.starts.load(Ordering::SeqCst), 1, "it runs already");
}

#[tokio::test]
async fn a_start_goes_on_without_its_caller_and_can_be_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, driver) = gateway(directory.path()).await;
    let id = make(&gateway, "box").await;
    let short = std::time::Duration::from_millis(10);
    let gone = tokio::time::timeout(short, gateway.sandboxes.ensure_running(&id, &NoProgress)).await;
    assert!(gone.is_err(), "the caller gives up before the start is over");
    assert!(gateway.sandboxes.ensure_running(&id, &NoProgress).await.is_ok());
    assert_eq!(driver.starts.load(Ordering::SeqCst), 1);

    gateway.sandboxes.stop("box").await.expect("stopped");
    *driver.refuses.lock() = Some("it is broken".to_owned());
    let error = gateway.sandboxes.ensure_running(&id, &NoProgress).await.err().expect("fails").to_string();
    assert!(error.contains("box") && error.contains("it is broken"), "{error}");
    *driver.refuses.lock() = None;
    assert!(gateway.sandboxes.ensure_running(&id, &NoProgress).await.is_ok());
}

#[tokio::test]
async fn names_are_unique_and_free_again_after_a_failure() {
    let directory = tempfile::tempdir().expect("a directory");
    let (gateway, _) = gateway(directory.path()).await;
    make(&gateway, "box").await;
    let again = gateway.sandboxes.create(NewSandbox::new("box".parse().expect("a name"))).await;
    assert!(matches!(again, Err(SandboxError::Exists(_))));
    for _ in 0..2 {
        let failed = gateway.sandboxes.create(NewSandbox::new("unmakeable".parse().expect("a name"))).await;
        assert!(matches!(failed, Err(SandboxError::Driver(_))), "the name is not taken by the failure");
    }
    gateway
        .sandboxes
        .ensure_running(&gateway.sandboxes.id_of("box").expect("known"), &NoProgress)
        .await
        .expect("runs");
    let refused = gateway.sandboxes.remove("box", Removal::IfStopped).await;
    assert!(matches!(refused, Err(SandboxError::StillRunning(_))));
    gateway.sandboxes.remove("box", Removal::Force).await.expect("removed");
    assert!(gateway.sandboxes.id_of("box").is_none());
}

#[tokio::test]
async fn a_new_gateway_finds_what_the_old_one_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let driver = Arc::new(FakeDriver::default());
    let first = gateway_with(directory.path(), driver.clone()).await;
    let id = make(&first, "box").await;
    let created = token(&first, "box", Duration::HOUR, &[]).await;
    let prints: Vec<String> = first.host_keys.iter().map(|key| key.fingerprint()).collect();

    let config = Config::new(directory.path(), "/nowhere");
    let fake: Arc<dyn Driver> = driver.clone();
    match Gateway::build_with_drivers(config, vec![fake]).await {
        Err(error @ BuildError::InUse { .. }) => {
            assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        }
        other => panic!("two gateways on one directory: {:?}", other.err()),
    }

    first.close().await;
    drop(first);
    // Its background tasks hold parts of it for a moment, but not the lock.
    let second = gateway_with(directory.path(), driver).await;
    assert_eq!(second.sandboxes.id_of("box"), Some(id));
    assert!(second.access.by_token(created.token.reveal().as_bytes(), here()).await.is_ok());
    assert_eq!(second.host_keys.iter().map(|key| key.fingerprint()).collect::<Vec<_>>(), prints);
}
