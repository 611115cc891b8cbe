//! What a terminal's task does at each of its turns, whether its shell runs or not.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sandgate_driver::Progress;
use sandgate_guest::Ready;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Mode;
use super::clients::{Clients, Shown};
use super::process::Process;
use super::screen::Screen;
use super::task::Command;
use crate::drain::DrainStage;
use crate::session::EndReason;

/// For how long the emulator works before others get their turn.
pub(super) const SLICE: Duration = Duration::from_millis(2);
/// Time of a processor that some 32 KiB of output may cost; usual ones take less than a millisecond. A program that writes what costs more is held
/// up for [`REST`] times as long, so that it has a fifth of one processor at most.
pub(super) const SLOW: Duration = Duration::from_millis(10);
/// See [`SLOW`].
pub(super) const REST: u32 = 4;

/// Brings output to the screen, and says for how long the emulator has worked on it. Others get their turn meanwhile.
pub(super) async fn show(screen: &mut Screen, data: &[u8]) -> Duration {
    let mut spent = Duration::ZERO;
    screen.take(data);
    loop {
        let began = cpu();
        let all = screen.advance(SLICE);
        spent += cpu().saturating_sub(began);
        if all {
            return spent;
        }
        tokio::task::yield_now().await;
    }
}

/// Time that this thread has spent.
pub(super) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// What happened between us and the process.
pub(super) enum Moved {
    Ready(Ready),
    Written(io::Result<usize>),
}

/// Does what is asked; the end is the caller's.
pub(super) fn follow(
    clients: &mut Clients,
    shown: &mut Option<Shown>,
    deadline: &mut Option<Instant>,
    command: Command,
) {
    match command {
        Command::Attach(client) => {
            if client.mode == Mode::Write {
                *deadline = None;
            }
            clients.attach(client, shown.as_mut());
        }
        Command::Resize(outbox, size) => {
            // From one who has been replaced meanwhile it means nothing.
            if clients.writer.as_ref().is_some_and(|writer| Arc::ptr_eq(&writer.outbox, &outbox)) {
                clients.resize(size, shown.as_mut());
            }
        }
        Command::Redraw => shown.iter().for_each(|shown| clients.redraw(shown)),
        Command::End(_) => {}
    }
}

pub(super) fn drained(stage: DrainStage) -> Option<EndReason> {
    match stage {
        DrainStage::Running => None,
        DrainStage::Draining(reason) | DrainStage::Cut(reason) => Some(reason),
    }
}

/// Takes off who has gone, and lets the grace time begin when it was the writer. There is none when nobody can come back.
pub(super) fn settle(
    clients: &mut Clients,
    deadline: &mut Option<Instant>,
    draining: Option<&EndReason>,
    grace: Duration,
) {
    clients.forget_the_gone();
    if clients.writer.is_none() && deadline.is_none() {
        let now = Instant::now();
        *deadline = Some(if draining.is_some() { now } else { now + grace });
    }
}

/// Resolves then; never, for none.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Writes what was typed and looks for output, whichever goes first.
pub(super) fn moved(
    process: &mut impl Process,
    typed: &[u8],
    wanted: bool,
    cx: &mut Context<'_>,
) -> Poll<Moved> {
    if !typed.is_empty()
        && let Poll::Ready(written) = process.poll_write(cx, typed)
    {
        return Poll::Ready(Moved::Written(written));
    }
    if wanted {
        return process.poll_ready(cx).map(Moved::Ready);
    }
    Poll::Pending
}

/// Lines of progress on their way to the client.
pub(super) struct Lines(pub(super) mpsc::Sender<String>);

impl Progress for Lines {
    fn step(&self, text: &str) {
        // Full: the client is not reading, and the line is a courtesy.
        let _ = self.0.try_send(text.to_owned());
    }

    fn warn(&self, text: &str) {
        self.step(text);
    }
}
