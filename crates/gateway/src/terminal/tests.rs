//! Terminals over a shell that does what the test says, in the runtime's own time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandgate_guest::{ExitStatus, WindowSize};

use super::testing::{Fake, principal};
use super::*;
use crate::drain::Drainer;
use crate::session::{Outcome, Registry};

const GRACE: Duration = Duration::from_secs(300);

struct Ground {
    terminals: Arc<Terminals>,
    registry: Arc<Registry>,
    drainer: Drainer,
    shell: Fake,
    id: String,
}

fn size(cols: u32, rows: u32) -> WindowSize {
    WindowSize { cols, rows, xpixel: 0, ypixel: 0 }
}

fn ground() -> Ground {
    let (registry, drainer, shell) = (Arc::new(Registry::default()), Drainer::default(), Fake::default());
    let terminals = Arc::new(Terminals::default());
    let setup = Setup {
        principal: principal(),
        registered: registry.connect(principal()),
        size: size(80, 24),
        drain: drainer.watch(),
        grace: GRACE,
    };
    let id = terminals.open(shell.clone(), setup).expect("a terminal");
    Ground { terminals, registry, drainer, shell, id }
}

impl Ground {
    async fn attach(&self, mode: Mode, cols: u32, rows: u32) -> Result<Attachment, TerminalError> {
        let target = Target::Terminal(self.id.clone());
        let ticket = self.terminals.ticket(Grant { target, mode, principal: principal() })?;
        let grant = self.terminals.tickets.take(ticket.reveal(), Instant::now()).expect("good");
        let registered = self.registry.connect(principal());
        let newcomer = Newcomer { grant, registered, size: size(cols, rows), peer: None };
        self.terminals.admit(&self.registry, newcomer)
    }

    async fn write(&self) -> Attachment {
        self.attach(Mode::Write, 80, 24).await.expect("attached")
    }

    /// A writer at a shell that has just been started.
    async fn begin(&self) -> Attachment {
        let writer = self.write().await;
        assert_eq!(next(&writer).await, ready(false, 80, 24));
        writer
    }

    async fn is_over(&self) {
        for _ in 0..1000 {
            if self.terminals.get(&self.id).is_none() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the terminal is still there");
    }
}

fn ready(resumed: bool, cols: u32, rows: u32) -> Option<Message> {
    Some(Message::Ready { session: "ses-1".to_owned(), resumed, cols, rows, since: None })
}

async fn next(attachment: &Attachment) -> Option<Message> {
    tokio::time::timeout(Duration::from_secs(5), attachment.next()).await.expect("something comes")
}

/// Nothing more happens until time passes.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

async fn output(attachment: &Attachment, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        match next(attachment).await {
            Some(Message::Output(data)) => {
                attachment.acknowledge(data.len());
                all.extend(data);
            }
            other => panic!("not output: {other:?}"),
        }
    }
    all
}

async fn screen(attachment: &Attachment) -> Vec<String> {
    match next(attachment).await {
        Some(Message::Screen(dump)) => {
            let mut shown = screen::Screen::new(80, 24).expect("a screen");
            shown.feed(&dump);
            shown.text()
        }
        other => panic!("not a screen: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_shell_starts_with_its_first_client_and_ends_with_all_output_before_the_exit() {
    let ground = ground();
    ground.shell.reports("starting the sandbox");
    settle().await;
    assert!(ground.shell.sizes().is_empty(), "not before");
    let writer = ground.attach(Mode::Write, 100, 0).await.expect("attached");
    assert_eq!(next(&writer).await, Some(Message::Progress("starting the sandbox".to_owned())));
    assert_eq!(next(&writer).await, ready(false, 100, 1));
    writer.input(Bytes::from_static(b"ls\n")).await;
    ground.shell.prints(b"a\xff b\r\n");
    assert_eq!(output(&writer, 6).await, b"a\xff b\r\n", "bytes are untouched");
    writer.resize(size(5000, 30)).await;
    settle().await;
    assert_eq!(ground.shell.typed(), b"ls\n");
    assert_eq!(ground.shell.sizes(), [(100, 1), (1000, 30)]);
    let info = ground.terminals.list().pop().expect("listed");
    assert_eq!((info.attached, info.watchers, info.cols, info.rows), (true, 0, 1000, 30));
    assert_eq!(info.session.as_deref(), Some("ses-1"));
    ground.shell.prints(b"bye");
    ground.shell.exits(3);
    assert_eq!(output(&writer, 3).await, b"bye");
    assert_eq!(next(&writer).await, Some(Message::Exit(ExitStatus::Code(3))));
    assert_eq!(next(&writer).await, None);
    ground.is_over().await;
    assert_eq!(ground.shell.outcome(), Some(Outcome::Exited(ExitStatus::Code(3))));
    assert_eq!(ground.registry.connection_count(), 1, "only the attachment's own is left");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_stops_the_shell_and_loses_nothing() {
    let ground = ground();
    let writer = ground.begin().await;
    let all: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    ground.shell.prints(&all);
    ground.shell.exits(0);
    settle().await;
    assert_eq!(ground.shell.read(), WINDOW, "no more than the window is taken from it");
    let Some(Message::Output(first)) = next(&writer).await else { panic!("output") };
    settle().await;
    assert_eq!(ground.shell.read(), WINDOW, "what was sent is not yet taken");
    writer.acknowledge(first.len());
    let rest = output(&writer, all.len() - first.len()).await;
    assert!([first, rest].concat() == all);
    assert_eq!(next(&writer).await, Some(Message::Exit(ExitStatus::Code(0))));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_finds_the_screen_and_what_was_written_meanwhile() {
    let ground = ground();
    let writer = ground.begin().await;
    ground.shell.prints(b"one\r\n\xe2\x82");
    output(&writer, 7).await;
    writer.input(Bytes::from_static(b"make\n")).await;
    drop(writer);
    settle().await;
    assert_eq!(ground.shell.typed(), b"make\n", "what was typed last is delivered");
    assert!(!ground.terminals.get(&ground.id).expect("there").attached);
    ground.shell.prints(b"\xactwo\r\n$ ");
    tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
    let writer = ground.attach(Mode::Write, 80, 24).await.expect("attached");
    assert_eq!(next(&writer).await, ready(true, 80, 24));
    assert_eq!(screen(&writer).await[..2], ["one".to_owned(), "\u{20ac}two".to_owned()]);
    tokio::time::sleep(GRACE * 2).await;
    ground.shell.prints(b"x");
    assert_eq!(output(&writer, 1).await, b"x", "the grace time is over only for those who are away");
    drop(writer);
    tokio::time::sleep(GRACE + Duration::from_secs(1)).await;
    ground.is_over().await;
    assert!(ground.shell.is_gone());
    assert_eq!(ground.shell.outcome(), None, "as a lost client's");
    assert!(matches!(ground.attach(Mode::Write, 80, 24).await, Err(TerminalError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn a_shell_that_floods_while_nobody_looks_is_read_at_a_bounded_pace() {
    let ground = ground();
    drop(ground.begin().await);
    ground.shell.prints(&vec![b'y'; 8 << 20]);
    tokio::time::sleep(Duration::from_millis(205)).await;
    let read = ground.shell.read();
    assert!((1 << 20..=4 << 20).contains(&read), "{read}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ground.shell.read(), 8 << 20, "and to the end");
}

#[tokio::test(start_paused = true)]
async fn a_new_writer_takes_over() {
    let ground = ground();
    let first = ground.begin().await;
    ground.shell.prints(b"$ ");
    output(&first, 2).await;
    let second = ground.attach(Mode::Write, 100, 30).await.expect("attached");
    assert_eq!(next(&first).await, Some(Message::Detached));
    assert_eq!(next(&first).await, None);
    assert_eq!(next(&second).await, ready(true, 100, 30));
    assert!(matches!(next(&second).await, Some(Message::Screen(_))));
    first.input(Bytes::from_static(b"rm -rf /\n")).await;
    first.resize(size(1, 1)).await;
    second.input(Bytes::from_static(b"ls\n")).await;
    drop(first);
    settle().await;
    assert_eq!(ground.shell.typed(), b"ls\n");
    assert_eq!(ground.shell.sizes(), [(80, 24), (100, 30)]);
    tokio::time::sleep(GRACE * 2).await;
    ground.shell.prints(b"x");
    assert_eq!(output(&second, 1).await, b"x");
}

#[tokio::test(start_paused = true)]
async fn watchers_look_on_and_stop_nobody() {
    let ground = ground();
    let writer = ground.begin().await;
    ground.shell.prints(b"hello\r\n");
    output(&writer, 7).await;
    let watcher = ground.attach(Mode::Watch, 10, 10).await.expect("attached");
    assert_eq!(next(&watcher).await, ready(true, 80, 24));
    assert_eq!(screen(&watcher).await[0], "hello");
    watcher.input(Bytes::from_static(b"x")).await;
    watcher.resize(size(1, 1)).await;
    writer.resize(size(90, 24)).await;
    assert_eq!(next(&watcher).await, Some(Message::Resize { cols: 90, rows: 24 }));
    writer.resize(size(80, 24)).await;
    assert_eq!(next(&watcher).await, Some(Message::Resize { cols: 80, rows: 24 }));
    // The watcher sleeps; the writer goes on.
    let line = "all the same\r\n".repeat(100_000);
    ground.shell.prints(line.as_bytes());
    ground.shell.prints(b"the end");
    output(&writer, line.len() + 7).await;
    assert_eq!(next(&watcher).await, Some(Message::Resize { cols: 80, rows: 24 }));
    let text = screen(&watcher).await;
    assert_eq!(text.last().map(String::as_str), Some("the end"), "the screen in place of what was missed");
    assert_eq!(text.len(), 1024);
    assert_eq!(ground.shell.typed(), b"");
    for _ in 1..MAX_WATCHERS {
        // Held only by the list: they go at once and make room.
        drop(ground.attach(Mode::Watch, 80, 24).await.expect("attached"));
    }
    let mut many = Vec::new();
    for _ in 1..MAX_WATCHERS {
        many.push(ground.attach(Mode::Watch, 80, 24).await.expect("attached"));
    }
    settle().await;
    assert_eq!(ground.terminals.get(&ground.id).expect("there").watchers, MAX_WATCHERS);
    let late = ground.attach(Mode::Watch, 80, 24).await.expect("attached");
    assert!(matches!(next(&late).await, Some(Message::Ended(text)) if text.contains("16")));
    ground.shell.exits(0);
    assert_eq!(next(&writer).await, Some(Message::Exit(ExitStatus::Code(0))));
    assert_eq!(next(&watcher).await, Some(Message::Exit(ExitStatus::Code(0))));
}

#[tokio::test(start_paused = true)]
async fn typing_ahead_of_a_shell_that_does_not_read_locks_nobody() {
    let ground = ground();
    let writer = Arc::new(ground.begin().await);
    ground.shell.is_deaf(true);
    ground.shell.prints(&vec![b'x'; 2 * WINDOW]);
    let Some(Message::Output(data)) = next(&writer).await else { panic!("output") };
    let mut seen = data.len();
    while seen < WINDOW {
        let Some(Message::Output(data)) = next(&writer).await else { panic!("output") };
        seen += data.len();
    }
    settle().await;
    assert_eq!(ground.shell.read(), WINDOW);
    writer.input(Bytes::from_static(&[b'i'; 1024])).await;
    // It has been taken, and waits for the shell; the queue fills afterwards.
    settle().await;
    let typing = tokio::spawn({
        let writer = writer.clone();
        async move {
            for _ in 0..MAX_INPUT_MESSAGES + 4 {
                writer.input(Bytes::from_static(&[b'i'; 1024])).await;
            }
        }
    });
    // Its acknowledgements are behind what it types: output goes on all the same.
    while seen < 2 * WINDOW {
        let Some(Message::Output(data)) = next(&writer).await else { panic!("output") };
        seen += data.len();
    }
    ground.shell.is_deaf(false);
    typing.await.expect("typed");
    settle().await;
    assert_eq!(ground.shell.typed().len(), (MAX_INPUT_MESSAGES + 5) * 1024);
}

const MAX_INPUT_MESSAGES: usize = attachment::MAX_INPUT;

#[tokio::test(start_paused = true)]
async fn who_loses_the_right_loses_the_shell_and_is_told() {
    for how in ["revoked", "killed", "deleted"] {
        let ground = ground();
        let writer = ground.begin().await;
        let watcher = ground.attach(Mode::Watch, 80, 24).await.expect("attached");
        assert_eq!(next(&watcher).await, ready(true, 80, 24));
        screen(&watcher).await;
        let reason = EndReason::new(how);
        match how {
            "revoked" => drop(ground.registry.end_connections(|_| true, &reason)),
            "killed" => ground.shell.kill(how),
            _ => assert!(ground.terminals.end(&ground.id, reason).await),
        }
        assert_eq!(next(&writer).await, Some(Message::Ended(how.to_owned())));
        assert_eq!(next(&watcher).await, Some(Message::Ended(how.to_owned())));
        ground.is_over().await;
        assert!(ground.shell.was_hung_up() && ground.shell.is_gone());
        assert_eq!(ground.shell.outcome(), Some(Outcome::Ended(how.to_owned())));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_nobody_saw_is_told_to_who_comes_back_in_time() {
    let ground = ground();
    drop(ground.begin().await);
    settle().await;
    ground.shell.prints(b"last words");
    ground.shell.exits(9);
    tokio::time::sleep(GRACE / 2).await;
    assert!(ground.shell.is_gone(), "the session itself is over");
    let watcher = ground.attach(Mode::Watch, 80, 24).await.expect("attached");
    let writer = ground.attach(Mode::Write, 80, 24).await.expect("attached");
    for client in [&watcher, &writer] {
        assert_eq!(next(client).await, ready(true, 80, 24));
        assert_eq!(screen(client).await[0], "last words");
        assert_eq!(next(client).await, Some(Message::Exit(ExitStatus::Code(9))));
        assert_eq!(next(client).await, None);
    }
    ground.is_over().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_start_says_why_and_what_nobody_uses_goes() {
    let ground = ground();
    ground.shell.refuses("The sandbox is broken.");
    let writer = ground.write().await;
    assert_eq!(next(&writer).await, Some(Message::Ended("The sandbox is broken.".to_owned())));
    ground.is_over().await;

    let unused = self::ground();
    tokio::time::sleep(TICKET_LIFE + Duration::from_secs(1)).await;
    unused.is_over().await;
    assert_eq!(unused.registry.connection_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_terminal_that_nobody_was_told_of_does_not_stay() {
    let ground = ground();
    ground.terminals.withdraw(&ground.id);
    settle().await;
    assert_eq!(ground.registry.connection_count(), 0, "its task has ended, long before a ticket would");
    assert!(ground.terminals.list().is_empty() && ground.shell.sizes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_ends_waits_for_writers_alone() {
    let (away, here) = (ground(), ground());
    drop(away.begin().await);
    let writer = here.begin().await;
    settle().await;
    for ground in [&away, &here] {
        let mut seen = ground.drainer.watch();
        tokio::select! {
            _ = ground.drainer.drain(GRACE, GRACE, async || std::future::pending().await) => {}
            _ = seen.changed() => {}
        }
    }
    settle().await;
    away.is_over().await;
    here.shell.prints(b"x");
    assert_eq!(output(&writer, 1).await, b"x");
    drop(writer);
    settle().await;
    here.is_over().await;
}
