//! The store on real files.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sandgate_policy::{ApiKey, FileAccess, ForwardRules, Role, Scopes, SourceNetworks, Token};
use sandgate_store::{
    ApiKeyRow, AuditQuery, AuditRow, Keep, KeyRow, KeySandboxes, OpenedSandbox, Phase, Record, SandboxRow,
    SessionEnd, SessionRow, Store, StoreError, TokenRow, Use,
};
use time::{Duration, OffsetDateTime};

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time")
}

async fn open(directory: &Path) -> Store {
    Store::open(&directory.join("s.db"), now()).await.expect("a store")
}

fn rules(json: &str) -> ForwardRules {
    serde_json::from_str(json).expect("rules")
}

fn sandbox(id: &str, name: &str) -> SandboxRow {
    SandboxRow {
        id: id.into(),
        name: name.into(),
        driver: "oci".into(),
        spec: "{}".into(),
        forward: rules(r#"{"permit_open":["db:5432"]}"#),
        record: sandgate_policy::RecordMode::All,
        phase: Phase::Ready,
        created_at: now(),
    }
}

fn token(id: &str, sandbox: &str) -> (Token, TokenRow) {
    let token = Token::generate().expect("random");
    let row = TokenRow {
        id: id.into(),
        prefix: token.shown().into(),
        label: "a label".into(),
        scopes: "shell,sftp".parse::<Scopes>().expect("scopes"),
        sandbox_id: sandbox.into(),
        sources: SourceNetworks::parse(["192.0.2.0/24", "::1"]).expect("networks"),
        files: FileAccess { root: Some("drop".into()), read_only: true },
        forward: rules(r#"{"permit_listen":["8080"],"permit_socket_open":["none"]}"#),
        record: sandgate_policy::RecordMode::Terminal,
        created_at: now(),
        expires_at: now() + Duration::HOUR,
        revoked_at: None,
        last_used_at: None,
    };
    (token, row)
}

fn audit(action: &str) -> Record {
    Record::Audit(AuditRow {
        at: now(),
        action: action.into(),
        sandbox_id: None,
        actor: "test".into(),
        client: None,
        detail: String::new(),
    })
}

#[tokio::test]
async fn tokens_come_back_as_they_were_and_are_found_by_hash_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    store.insert_sandbox(&sandbox("sb-1", "box")).await.expect("inserted");
    let (secret, row) = token("tok-1", "sb-1");
    store.insert_token(&row, secret.hash()).await.expect("inserted");
    let found = store.token_by_hash(secret.hash()).await.expect("asked").expect("found");
    assert_eq!(found.sandbox_forward, sandbox("", "").forward);
    assert_eq!((found.token, found.sandbox_name.as_deref()), (row, Some("box")));
    let stranger = Token::generate().expect("random");
    assert_eq!(store.token_by_hash(stranger.hash()).await.expect("asked"), None);
}

#[tokio::test]
async fn no_file_holds_a_token_and_none_is_for_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    let (secret, row) = token("tok-1", "sb-1");
    store.insert_token(&row, secret.hash()).await.expect("inserted");
    store.note_use(Use::Token { id: "tok-1".into(), at: now() });
    store.flush().await;
    let look = || {
        let mut seen_hash = false;
        for entry in std::fs::read_dir(directory.path()).expect("files") {
            let entry = entry.expect("a file");
            let content = std::fs::read(entry.path()).expect("content");
            let holds = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
            // Nine characters are one more than may be shown.
            assert!(!holds(&secret.reveal()[..9]), "{:?} holds the token", entry.path());
            assert!(!holds(&secret.reveal()[9..]), "{:?} holds the token", entry.path());
            seen_hash |= holds(&secret.hash().to_hex());
            assert_eq!(
                entry.metadata().expect("metadata").permissions().mode() & 0o777,
                0o600,
                "{:?}",
                entry.path()
            );
        }
        assert!(seen_hash, "the search would not have found the token either");
    };
    look();
    store.close().await;
    look();
}

#[tokio::test]
async fn revoking_keeps_the_first_time_and_says_when_there_is_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    let (secret, row) = token("tok-1", "sb-1");
    store.insert_token(&row, secret.hash()).await.expect("inserted");
    assert!(store.revoke_token("tok-1", now()).await.expect("asked"));
    assert!(store.revoke_token("tok-1", now() + Duration::HOUR).await.expect("asked"));
    assert!(!store.revoke_token("tok-2", now()).await.expect("asked"));
    let found = store.token_by_hash(secret.hash()).await.expect("asked").expect("found");
    assert_eq!(found.token.revoked_at, Some(now()));
}

#[tokio::test]
async fn a_removed_sandbox_takes_its_grants_with_it_and_leaves_revoked_tokens() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    store.insert_sandbox(&sandbox("sb-1", "box")).await.expect("inserted");
    assert!(matches!(store.insert_sandbox(&sandbox("sb-2", "box")).await, Err(StoreError::Exists)));
    let (secret, row) = token("tok-1", "sb-1");
    store.insert_token(&row, secret.hash()).await.expect("inserted");
    let key = KeyRow {
        id: "key-1".into(),
        name: "me".into(),
        fingerprint: "SHA256:x".into(),
        public_key: "ssh-ed25519 x".into(),
        sandboxes: KeySandboxes::Only(vec!["sb-1".into()]),
        authority: None,
        created_at: now(),
        last_used_at: None,
    };
    store.insert_key(&key).await.expect("inserted");
    assert_eq!(store.keys().await.expect("asked"), std::slice::from_ref(&key));
    let opens = async |name: &str| {
        store.key_for_sandbox("SHA256:x", name).await.expect("asked").expect("known").sandbox
    };
    let forward = sandbox("", "").forward;
    assert_eq!(opens("box").await, Some(OpenedSandbox { id: "sb-1".into(), name: "box".into(), forward }));

    store.delete_sandbox("sb-1", now()).await.expect("deleted");
    assert_eq!(opens("box").await, None);
    let found = store.token_by_hash(secret.hash()).await.expect("asked").expect("found");
    assert_eq!((found.token.revoked_at, found.sandbox_name), (Some(now()), None));
    assert_eq!(store.keys().await.expect("asked")[0].sandboxes, KeySandboxes::Only(Vec::new()));
    assert_eq!(store.delete_key("me").await.expect("asked").as_deref(), Some("key-1"));
    assert_eq!(store.delete_key("me").await.expect("asked"), None);
}

#[tokio::test]
async fn what_is_being_made_or_removed_cannot_be_entered() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    store.insert_sandbox(&sandbox("sb-1", "box")).await.expect("inserted");
    let (secret, row) = token("tok-1", "sb-1");
    store.insert_token(&row, secret.hash()).await.expect("inserted");
    for phase in [Phase::Creating, Phase::Removing] {
        store.set_sandbox_phase("sb-1", phase).await.expect("set");
        assert_eq!(
            store.token_by_hash(secret.hash()).await.expect("asked").expect("found").sandbox_name,
            None
        );
        assert_eq!(store.sandbox_by_name("box").await.expect("asked").expect("there").phase, phase);
    }
}

#[tokio::test]
async fn more_records_than_the_queue_holds_all_arrive_in_order() {
    const COUNT: u32 = 6000;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    for number in 0..COUNT {
        store.record(audit(&number.to_string())).await;
    }
    store.close().await;
    let store = open(directory.path()).await;
    store.record(audit("after")).await;
    store.flush().await;
    let rows = store.audit_tail(COUNT + 10).await.expect("rows");
    let actions: Vec<String> = rows.into_iter().rev().map(|row| row.action).collect();
    let expected: Vec<String> =
        (0..COUNT).map(|number| number.to_string()).chain(["after".to_owned()]).collect();
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn sessions_left_open_by_a_killed_gateway_are_closed_by_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    for id in ["ses-1", "ses-2"] {
        let row = session(id, now());
        store.record_later(Record::SessionStarted(row));
    }
    let end = SessionEnd {
        id: "ses-1".into(),
        ended_at: now() + Duration::SECOND,
        outcome: "exit 0".into(),
        bytes_in: 3,
        bytes_out: u64::MAX,
    };
    store.record_later(Record::SessionEnded(end.clone()));
    store.close().await;

    let store = open(directory.path()).await;
    let sessions = store.past_sessions(10).await.expect("rows");
    let ends: Vec<_> = sessions.iter().map(|(_, end)| end.clone().expect("ended")).collect();
    assert_eq!(ends[0], SessionEnd { bytes_out: i64::MAX.unsigned_abs(), ..end });
    assert_eq!((ends[1].outcome.as_str(), ends[1].ended_at), ("gateway gone", now()));
    assert!(sessions[0].0.pty);
}

#[tokio::test]
async fn long_dead_tokens_are_forgotten() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    let (secret, row) = token("tok-1", "sb-1");
    store.insert_token(&row, secret.hash()).await.expect("inserted");
    store.close().await;
    let later =
        Store::open(&directory.path().join("s.db"), now() + Duration::days(92)).await.expect("a store");
    assert_eq!(later.token_by_hash(secret.hash()).await.expect("asked"), None);
}

#[tokio::test]
async fn what_is_older_than_it_is_kept_goes_and_the_rest_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    // More than are removed at once.
    for number in 0..1200_i64 {
        let age = Duration::days(if number < 1100 { 366 } else { 364 });
        let Record::Audit(row) = audit(&number.to_string()) else { continue };
        store.record(Record::Audit(AuditRow { at: now() - age, ..row })).await;
    }
    for (id, days, ended) in [("old", 100, Some(91)), ("new", 100, Some(89)), ("live", 100, None)] {
        store.record_later(Record::SessionStarted(session(id, now() - Duration::days(days))));
        if let Some(ended) = ended {
            let ended_at = now() - Duration::days(ended);
            store.record_later(Record::SessionEnded(SessionEnd {
                id: id.into(),
                ended_at,
                outcome: "exit 0".into(),
                bytes_in: 0,
                bytes_out: 0,
            }));
        }
    }
    let (secret, row) = token("tok-1", "sb-1");
    let dead = TokenRow { expires_at: now() - Duration::days(91), ..row };
    store.insert_token(&dead, secret.hash()).await.expect("inserted");

    store.forget(now(), Keep { sessions: None, audit: None }).await;
    store.flush().await;
    settle().await;
    assert_eq!(store.audit_tail(2000).await.expect("rows").len(), 1200, "for ever means for ever");
    assert_eq!(store.token_by_hash(secret.hash()).await.expect("asked"), None);

    store.forget(now(), Keep::default()).await;
    // Rows come in between.
    store.record(audit("after")).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while store.audit_tail(2000).await.expect("rows").len() > 101 && std::time::Instant::now() < deadline {
        settle().await;
    }
    settle().await;
    let rows = store.audit_tail(2000).await.expect("rows");
    assert_eq!((rows.len(), rows[0].action.as_str(), rows[100].action.as_str()), (101, "after", "1100"));
    let left = store.past_sessions(10).await.expect("rows");
    let mut left: Vec<&str> = left.iter().map(|(begun, _)| begun.id.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["live", "new"]);
}

/// Time in which the writer removes some rows.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
}

fn session(id: &str, started_at: OffsetDateTime) -> SessionRow {
    SessionRow {
        id: id.into(),
        sandbox_id: "sb-1".into(),
        sandbox_name: "box".into(),
        credential: "token tok-1".into(),
        kind: "shell".into(),
        pty: true,
        client: Some("192.0.2.1:4".into()),
        started_at,
    }
}

fn api_key(id: &str, name: &str) -> (ApiKey, ApiKeyRow) {
    let key = ApiKey::generate().expect("random");
    let row = ApiKeyRow {
        id: id.into(),
        prefix: key.shown().into(),
        name: name.into(),
        role: Role::User,
        created_at: now(),
        expires_at: Some(now() + Duration::DAY),
        revoked_at: None,
        last_used_at: None,
    };
    (key, row)
}

#[tokio::test]
async fn api_keys_come_back_as_they_were_and_a_revoked_one_frees_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    let (key, row) = api_key("api-1", "ci");
    store.insert_api_key(&row, key.hash()).await.expect("inserted");
    assert_eq!(store.api_key_by_hash(key.hash()).await.expect("asked"), Some(row.clone()));
    let (other, second) = api_key("api-2", "ci");
    assert!(matches!(store.insert_api_key(&second, other.hash()).await, Err(StoreError::Exists)));
    assert_eq!(store.revoke_api_key("api-1", now()).await.expect("asked"), Some(row));
    assert!(store.revoke_api_key("api-1", now() + Duration::HOUR).await.expect("asked").is_some());
    assert_eq!(store.revoke_api_key("api-9", now()).await.expect("asked"), None);
    store.insert_api_key(&second, other.hash()).await.expect("the name is free");
    let dead = store.api_key_by_hash(key.hash()).await.expect("asked").expect("its row stays");
    assert_eq!((dead.revoked_at, dead.name.as_str()), (Some(now()), "ci (api-1)"));
    store.note_use(Use::ApiKey { id: "api-2".into(), at: now() });
    store.flush().await;
    assert_eq!(store.api_key("api-2").await.expect("asked").expect("there").last_used_at, Some(now()));
}

#[tokio::test]
async fn the_audit_trail_is_read_in_pages_and_by_filters() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    for (action, sandbox) in
        [("login", Some("sb-1")), ("file.write", Some("sb-1")), ("file.remove", Some("sb-2")), ("f%", None)]
    {
        let Record::Audit(row) = audit(action) else { unreachable!("it is a row of the audit trail") };
        let row = AuditRow { sandbox_id: sandbox.map(str::to_owned), ..row };
        store.record(Record::Audit(row)).await;
    }
    store.flush().await;
    let ask = async |query: AuditQuery| -> Vec<(i64, String)> {
        let found = store.audit(&query).await.expect("asked");
        found.into_iter().map(|entry| (entry.seq, entry.row.action)).collect()
    };
    let all = AuditQuery { limit: 2, ..AuditQuery::default() };
    assert_eq!(ask(all.clone()).await, [(4, "f%".to_owned()), (3, "file.remove".to_owned())]);
    let next = AuditQuery { before: Some(3), ..all };
    assert_eq!(ask(next).await, [(2, "file.write".to_owned()), (1, "login".to_owned())]);
    let files = AuditQuery { limit: 9, action: Some("file.".into()), ..AuditQuery::default() };
    assert_eq!(ask(files.clone()).await.len(), 2);
    let one = AuditQuery { sandbox_id: Some("sb-1".into()), ..files };
    assert_eq!(ask(one).await, [(2, "file.write".to_owned())]);
    // What has a meaning in a pattern has none here.
    let odd = AuditQuery { limit: 9, action: Some("f%".into()), ..AuditQuery::default() };
    assert_eq!(ask(odd).await, [(4, "f%".to_owned())]);
}
