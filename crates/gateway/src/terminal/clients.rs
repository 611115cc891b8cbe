//! Who is attached to a terminal: one who writes at most, and some who watch.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sandgate_guest::WindowSize;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::Mode;
use super::outbox::{Message, Outbox};
use super::screen::{Screen, clamp};
use crate::session::Peer;

/// Most who may watch one terminal.
pub const MAX_WATCHERS: usize = 16;
/// Most cells of a screen. Each costs us 16 bytes on either of a terminal's two screens; a window over all of a 4K display, in letters too small to
/// read, has 115,000.
const MAX_CELLS: u32 = 150_000;

/// Somebody who wants to be attached.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) outbox: Arc<Outbox>,
    /// What it types; closed when it goes. A watcher's is never filled.
    pub(super) input: mpsc::Receiver<Bytes>,
    pub(super) mode: Mode,
    pub(super) size: WindowSize,
    pub(super) peer: Option<Peer>,
}

/// A shell that has been started, as clients see it.
#[derive(Debug)]
pub(super) struct Shown {
    /// The session's identifier.
    pub(super) session: String,
    pub(super) screen: Screen,
    /// When the picture began, if that was later than the session.
    pub(super) since: Option<OffsetDateTime>,
}

impl Shown {
    fn ready(&self, resumed: bool) -> Message {
        let (cols, rows) = self.screen.size();
        Message::Ready { session: self.session.clone(), resumed, cols, rows, since: self.since }
    }
}

/// Everybody who is attached.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) writer: Option<Client>,
    /// At most [`MAX_WATCHERS`].
    watchers: Vec<Client>,
    /// The size that the writer has, or the last one had.
    pub(super) size: WindowSize,
    /// What a writer who has gone had typed; at most what its queue holds.
    pub(super) left: VecDeque<Bytes>,
}

/// What we keep of a size: each side within its bounds, and no more rows than there are cells for.
fn kept(size: WindowSize) -> WindowSize {
    let cols = clamp(size.cols);
    let rows = clamp(size.rows).min((MAX_CELLS / cols).max(1));
    WindowSize { cols, rows, ..size }
}

impl Drop for Client {
    /// However the task ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.outbox.close();
    }
}

impl Clients {
    /// Attaches `client`; another writer is told that it is none any more.
    pub(super) fn attach(&mut self, client: Client, shown: Option<&mut Shown>) {
        self.forget_the_gone();
        if client.mode == Mode::Watch {
            if self.watchers.len() >= MAX_WATCHERS {
                let text =
                    format!("This terminal has {MAX_WATCHERS} watchers already, the most that is allowed.");
                return client.outbox.say(Message::Ended(text));
            }
            if let Some(shown) = shown {
                client.outbox.say(shown.ready(true));
                client.outbox.screen(shown.screen.dump());
            }
            return self.watchers.push(client);
        }
        if let Some(before) = self.part_with_writer() {
            before.outbox.say(Message::Detached);
        }
        match shown {
            Some(shown) => {
                self.resize(client.size, Some(&mut *shown));
                client.outbox.say(shown.ready(true));
                client.outbox.screen(shown.screen.dump());
            }
            None => self.resize(client.size, None),
        }
        self.writer = Some(client);
    }

    /// The shell runs now: everybody who has waited for it is told.
    pub(super) fn started(&self, shown: &Shown) {
        if let Some(writer) = &self.writer {
            writer.outbox.say(shown.ready(false));
        }
        for watcher in &self.watchers {
            watcher.outbox.say(shown.ready(false));
            watcher.outbox.screen(shown.screen.dump());
        }
    }

    /// Notes the size, cut to what we keep, and tells the watchers.
    pub(super) fn resize(&mut self, size: WindowSize, shown: Option<&mut Shown>) {
        self.size = kept(size);
        let WindowSize { cols, rows, .. } = self.size;
        if let Some(shown) = shown.filter(|shown| shown.screen.size() != (cols, rows)) {
            shown.screen.resize(cols, rows);
            for watcher in &self.watchers {
                watcher.outbox.say(Message::Resize { cols, rows });
            }
        }
    }

    /// Gives output to all of them. The writer has the room for it.
    pub(super) fn output(&self, data: &[u8]) {
        if let Some(writer) = &self.writer {
            writer.outbox.output(data);
        }
        for watcher in &self.watchers {
            watcher.outbox.offer(data);
        }
    }

    /// Notes that output is not given to the watchers: they get the screen instead.
    pub(super) fn miss(&self) {
        for watcher in &self.watchers {
            watcher.outbox.miss();
        }
    }

    /// Sends the screen to those who have missed something and have taken the rest.
    pub(super) fn redraw(&self, shown: &Shown) {
        let (cols, rows) = shown.screen.size();
        for watcher in self.watchers.iter().filter(|watcher| watcher.outbox.wants_screen()) {
            watcher.outbox.say_size(cols, rows);
            watcher.outbox.screen(shown.screen.dump());
        }
    }

    /// Tells the writer why it waits.
    pub(super) fn progress(&self, line: String) {
        if let Some(writer) = &self.writer {
            writer.outbox.say(Message::Progress(line));
        }
    }

    /// Says the last thing to all of them, after everything that went before.
    pub(super) fn say_last(&mut self, last: &Message, shown: Option<&Shown>) {
        for client in self.writer.take().into_iter().chain(self.watchers.drain(..)) {
            if let Some(shown) = shown.filter(|_| client.outbox.has_missed()) {
                let (cols, rows) = shown.screen.size();
                client.outbox.say_size(cols, rows);
                client.outbox.screen(shown.screen.dump());
            }
            client.outbox.say(last.clone());
        }
    }

    /// Takes those off who have gone.
    pub(super) fn forget_the_gone(&mut self) {
        self.watchers.retain(|watcher| !watcher.input.is_closed());
        if self.writer.as_ref().is_some_and(|writer| writer.input.is_closed()) {
            self.part_with_writer();
        }
    }

    /// Takes the writer off; what it has typed is still to be delivered.
    fn part_with_writer(&mut self) -> Option<Client> {
        let mut writer = self.writer.take()?;
        // One that comes while the last one's still waits would make it grow for ever.
        if self.left.is_empty() {
            while let Ok(bytes) = writer.input.try_recv() {
                self.left.push_back(bytes);
            }
        }
        Some(writer)
    }

    pub(super) fn watchers(&self) -> usize {
        self.watchers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_cut_to_what_a_screen_may_cost() {
        for ((cols, rows), expected) in [
            ((80, 24), (80, 24)),
            ((0, 0), (1, 1)),
            ((300, 500), (300, 500)),
            ((300, 501), (300, 500)),
            ((1, 5000), (1, 1000)),
            ((5000, 30), (1000, 30)),
            ((u32::MAX, u32::MAX), (1000, 150)),
        ] {
            let mut clients = Clients::default();
            clients.resize(WindowSize { cols, rows, xpixel: 7, ypixel: 9 }, None);
            let WindowSize { cols: kept_cols, rows: kept_rows, xpixel, ypixel } = clients.size;
            assert_eq!((kept_cols, kept_rows), expected, "{cols} x {rows}");
            assert_eq!((xpixel, ypixel), (7, 9), "the pixels are not ours to judge");
            // What is kept and what is shown agree, or each attachment would be a resize.
            let screen = Screen::new(kept_cols, kept_rows).expect("a screen");
            assert_eq!(screen.size(), expected, "{cols} x {rows}");
        }
    }
}
