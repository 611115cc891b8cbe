//! Watching a session that is nobody's terminal here, in the runtime's own time.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandgate_guest::ExitStatus;
use sandgate_policy::Credential;

use super::testing::principal;
use super::*;
use crate::session::{Outcome, SessionKind, Tee};

struct Ground {
    terminals: Arc<Terminals>,
    registry: Arc<Registry>,
    /// The session's side.
    session: Tee,
    /// What keeps it in the register.
    held: Box<dyn Any>,
}

fn info(id: &str, pty: bool) -> SessionInfo {
    SessionInfo {
        id: id.to_owned(),
        sandbox: "box".to_owned(),
        sandbox_id: "sb-1".to_owned(),
        kind: SessionKind::Shell,
        pty,
        credential: "token sg_ab12".to_owned(),
        client: None,
        started_at: OffsetDateTime::now_utc(),
        bytes_in: 0,
        bytes_out: 0,
        recording: None,
    }
}

fn ground_of(cols: u32, rows: u32) -> Ground {
    let (registry, session) = (Arc::new(Registry::default()), Tee::new(cols, rows));
    let held = Box::new(registry.open(info("ses-1", true), None, Some(session.clone())));
    Ground { terminals: Arc::default(), registry, session, held }
}

fn ground() -> Ground {
    ground_of(80, 24)
}

impl Ground {
    fn try_watch(&self, session: &str) -> Result<Attachment, TerminalError> {
        self.try_watch_as(principal(), session)
    }

    fn try_watch_as(&self, principal: Principal, session: &str) -> Result<Attachment, TerminalError> {
        let target = Target::Session(session.to_owned());
        let ticket =
            self.terminals.ticket(Grant { target, mode: Mode::Watch, principal: principal.clone() })?;
        let grant = self.terminals.watched.tickets.take(ticket.reveal(), Instant::now()).expect("good");
        let registered = self.registry.connect(principal);
        let size = WindowSize { cols: 10, rows: 10, xpixel: 0, ypixel: 0 };
        self.terminals.admit(&self.registry, Newcomer { grant, registered, size, peer: None })
    }

    fn watch(&self) -> Attachment {
        self.try_watch("ses-1").expect("watched")
    }

    /// Somebody who watches, and has been told so.
    async fn begin(&self) -> (Attachment, OffsetDateTime) {
        let watcher = self.watch();
        match next(&watcher).await {
            Some(Message::Ready { session, resumed: true, cols: 80, rows: 24, since: Some(since) }) => {
                assert_eq!(session, "ses-1");
                (watcher, since)
            }
            other => panic!("not ready: {other:?}"),
        }
    }

    fn prints(&self, bytes: &[u8]) {
        self.session.passed([bytes], bytes.len());
    }

    fn exits(&self, code: u32) {
        self.session.finish(Outcome::Exited(ExitStatus::Code(code)));
    }

    fn is_followed(&self) -> bool {
        format!("{:?}", self.session).contains("followed: true")
    }
}

async fn next(attachment: &Attachment) -> Option<Message> {
    tokio::time::timeout(Duration::from_secs(5), attachment.next()).await.expect("something comes")
}

async fn output(attachment: &Attachment, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        match next(attachment).await {
            Some(Message::Output(data)) => all.extend(data),
            other => panic!("not output: {other:?}"),
        }
    }
    all
}

/// The next picture; one that is given in place of what was missed comes with its size.
async fn screen(attachment: &Attachment) -> Vec<String> {
    loop {
        match next(attachment).await {
            Some(Message::Resize { cols: 80, rows: 24 }) => {}
            Some(Message::Screen(dump)) => {
                let mut shown = screen::Screen::new(80, 24).expect("a screen");
                shown.feed(&dump);
                return shown.text();
            }
            other => panic!("not a screen: {other:?}"),
        }
    }
}

/// Long enough for all that waits, pauses of the emulator among it.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test(start_paused = true)]
async fn the_picture_begins_with_the_first_who_watches_and_all_that_follows_is_seen() {
    let ground = ground();
    ground.prints(b"nobody sees this\r\n");
    assert!(!ground.is_followed());
    let (first, since) = ground.begin().await;
    assert!(ground.is_followed());
    assert!(screen(&first).await.iter().all(String::is_empty), "the picture begins empty");
    ground.prints(b"a\xff b\r\n\xe2\x82");
    assert_eq!(output(&first, 8).await, b"a\xff b\r\n\xe2\x82", "bytes are untouched");
    let (late, same) = ground.begin().await;
    assert_eq!(same, since, "it is the first one's picture");
    ground.prints(b"\xac");
    assert_eq!(screen(&late).await[0], "a\u{fffd} b", "with what was printed since then");
    for watcher in [&first, &late] {
        assert_eq!(output(watcher, 1).await, b"\xac");
        // As with any watcher, nothing comes of it.
        watcher.input(Bytes::from_static(b"rm -rf /\n")).await;
        watcher.resize(WindowSize { cols: 1, rows: 1, xpixel: 0, ypixel: 0 }).await;
    }
    ground.session.resized(100, 30);
    ground.prints(b"bye");
    ground.exits(3);
    for watcher in [&first, &late] {
        assert_eq!(next(watcher).await, Some(Message::Resize { cols: 100, rows: 30 }));
        assert_eq!(output(watcher, 3).await, b"bye");
        assert_eq!(next(watcher).await, Some(Message::Exit(ExitStatus::Code(3))));
        assert_eq!(next(watcher).await, None);
    }
    assert!(matches!(ground.try_watch("ses-1"), Err(TerminalError::NoSession)), "it is over");
    let Ground { registry, held, .. } = ground;
    drop(held);
    assert!(registry.tee("ses-1").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_holds_up_nobody_and_gets_the_screen_in_place_of_what_was_missed() {
    let ground = ground();
    let (asleep, _) = ground.begin().await;
    let (awake, _) = ground.begin().await;
    assert_eq!((screen(&asleep).await, screen(&awake).await).0, vec![String::new(); 24]);
    let line = b"all the same\r\n".repeat(1000);
    for _ in 0..40 {
        ground.prints(&line);
        assert!(output(&awake, line.len()).await == line, "the other one sees every byte");
    }
    ground.prints(b"the end");
    assert_eq!(output(&awake, 7).await, b"the end");
    let text = screen(&asleep).await;
    assert_eq!(text.last().map(String::as_str), Some("the end"));
    assert_eq!(text.len(), 1024);
    ground.prints(b".");
    assert_eq!((output(&asleep, 1).await, output(&awake, 1).await), (b".".to_vec(), b".".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_faster_than_its_picture_is_shown_as_it_is_in_the_end() {
    let ground = ground();
    let (watcher, _) = ground.begin().await;
    screen(&watcher).await;
    // A title that does not end would swallow all that follows.
    ground.prints(b"\x1b]0;a title");
    settle().await;
    // In one go, so that nobody else gets a turn: the session waits for none.
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..64 {
        ground.prints(&piece);
    }
    ground.session.resized(80, 10);
    ground.session.resized(80, 24);
    ground.prints(b"\r\nthe end");
    settle().await;
    let text = screen(&watcher).await;
    assert_eq!(text.last().map(String::as_str), Some("the end"));
    ground.prints(b".");
    assert_eq!(output(&watcher, 1).await, b".");
    // Missed to the last byte.
    for _ in 0..64 {
        ground.prints(&piece);
    }
    ground.exits(0);
    settle().await;
    let mut last = Vec::new();
    while let Some(message) = next(&watcher).await {
        last.push(message);
    }
    assert!(matches!(last.as_slice(), [.., Message::Screen(_), Message::Exit(ExitStatus::Code(0))]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_once_nobody_watches() {
    let ground = ground();
    let (first, since) = ground.begin().await;
    screen(&first).await;
    ground.prints(b"hello");
    output(&first, 5).await;
    // One goes and another comes in the same moment: the picture stays.
    drop(first);
    let (second, same) = ground.begin().await;
    assert_eq!((screen(&second).await[0].as_str(), same), ("hello", since));
    drop(second);
    settle().await;
    assert!(!ground.is_followed());
    assert_eq!(ground.registry.connection_count(), 0);
    ground.prints(b"unseen");
    let (third, _) = ground.begin().await;
    assert!(screen(&third).await.iter().all(String::is_empty), "another picture");
    ground.prints(b"x");
    assert_eq!(output(&third, 1).await, b"x");
}

#[tokio::test(start_paused = true)]
async fn how_it_ended_is_told_and_a_right_that_ends_ends_the_watching() {
    for (outcome, words) in [
        (Outcome::LinkLost, "sandbox was lost"),
        (Outcome::Ended("The token was revoked.".to_owned()), "token was revoked"),
    ] {
        let ground = ground();
        let (watcher, _) = ground.begin().await;
        screen(&watcher).await;
        ground.session.finish(outcome);
        assert!(
            matches!(next(&watcher).await, Some(Message::Ended(text)) if text.contains(words)),
            "{words}"
        );
        assert_eq!(next(&watcher).await, None);
    }
    let ground = ground();
    let (watcher, _) = ground.begin().await;
    let reason = EndReason::new("The API key was revoked.");
    assert_eq!(ground.registry.end_connections(|_| true, &reason), 1);
    assert_eq!(watcher.ended().await, reason);
}

#[tokio::test(start_paused = true)]
async fn there_are_bounds_and_what_has_no_screen_is_not_watched() {
    let ground = ground_of(0, 0);
    let (watcher, _) = ground.begin().await;
    screen(&watcher).await;
    let mut watchers: Vec<_> = (1..MAX_WATCHERS).map(|_| ground.watch()).collect();
    settle().await;
    let one_more = ground.watch();
    assert!(matches!(next(&one_more).await, Some(Message::Ended(text)) if text.contains("16")));

    let mut held = Vec::new();
    let other = || {
        let credential = Credential::ApiKey { id: "key-2".to_owned(), name: "other".to_owned() };
        Principal { credential, ..principal() }
    };
    for number in 1..=MAX_WATCHED {
        let id = format!("ses-more-{number}");
        held.push(ground.registry.open(info(&id, true), None, Some(Tee::new(80, 24))));
        // The session of the ground is one that the first watches, too.
        if number == MAX_WATCHED_BY_ONE {
            // Nobody has more than half of the places.
            assert!(matches!(ground.try_watch(&id), Err(TerminalError::TooManyWatchedByOne)));
        }
        let who = if number < MAX_WATCHED_BY_ONE { principal() } else { other() };
        let watched = ground.try_watch_as(who, &id);
        assert_eq!(watched.is_ok(), number < MAX_WATCHED, "{number}");
        match watched {
            Ok(watcher) => watchers.push(watcher),
            Err(error) => assert!(matches!(error, TerminalError::TooManyWatched)),
        }
    }
    drop(watchers.pop());
    settle().await;
    let last = format!("ses-more-{MAX_WATCHED}");
    assert!(ground.try_watch_as(other(), &last).is_ok(), "there is room again");

    assert!(matches!(ground.try_watch("ses-x"), Err(TerminalError::NoSession)));
    assert!(matches!(ground.terminals.watchable(&info("ses-2", false)), Err(TerminalError::NoScreen)));
    let target = ground.terminals.watchable(&info("ses-1", true)).expect("a terminal");
    assert_eq!(target, Target::Session("ses-1".to_owned()));
    let to_write = Grant { target, mode: Mode::Write, principal: principal() };
    assert!(matches!(ground.terminals.ticket(to_write), Err(TerminalError::OnlyWatched)));
}
