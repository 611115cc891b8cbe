//! What the agent's file servers changed, for the audit trail.
//!
//! The lines come from inside the sandbox, so they are as true as the sandbox is honest; they are bounded, and nothing but rows of
//! this sandbox can come of them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sandgate_sftp::audit::{Event, MAX_LINE, Verb};
use sandgate_store::AuditRow;
use time::OffsetDateTime;

use super::SessionInfo;
use crate::gateway::Gateway;

/// Rows of one session. A tree of a hundred thousand files is copied now and then; a hostile guest gets no further.
const MOST_ROWS: u32 = 250_000;
/// Files open for writing at once that are remembered; the file server's own bound is 1000 handles.
const MOST_OPEN: usize = 1024;
/// What a file server may say to the client in a session, in bytes: why it cannot serve.
const MOST_WORDS: usize = 4096;

/// Turns the lines of one session into rows.
pub(crate) struct FileAudit {
    gateway: Arc<Gateway>,
    session: String,
    sandbox_id: String,
    user: String,
    /// The directory that paths begin in, where the credential names one, as it names it.
    root: Option<Vec<u8>>,
    actor: String,
    client: Option<String>,
    line: Vec<u8>,
    /// The line at hand is too long; the rest of it is skipped.
    overlong: bool,
    /// Opened for writing and not closed yet: told at the end, when the server was killed.
    open: OpenFiles,
    rows: u32,
    /// Lines for the client, not handed out yet; and how many bytes of such there were.
    words: Vec<u8>,
    said: usize,
}

impl FileAudit {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        info: &SessionInfo,
        user: Option<&[u8]>,
        root: Option<Vec<u8>>,
    ) -> Self {
        Self {
            gateway,
            session: info.id.clone(),
            sandbox_id: info.sandbox_id.clone(),
            // Process 1 of the sandbox, which is what the agent is, runs as root in there.
            user: user.map_or_else(|| "root".to_owned(), |user| String::from_utf8_lossy(user).into_owned()),
            root,
            actor: info.credential.clone(),
            client: info.client.map(|client| client.to_string()),
            line: Vec::new(),
            overlong: false,
            open: OpenFiles::default(),
            rows: 0,
            words: Vec::new(),
            said: 0,
        }
    }

    /// What the file server has to say to the client since the last time: why it does not serve, as a rule.
    pub(crate) fn take_words(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.words)
    }

    /// Takes a piece of the stream. Waits while the store is behind, and so does the file server then.
    pub(crate) async fn take(mut self: Box<Self>, bytes: Vec<u8>) -> Box<Self> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            self.overlong |= self.line.len() + text.len() > MAX_LINE;
            if !self.overlong {
                self.line.extend_from_slice(text);
            }
            if ends {
                let line = std::mem::take(&mut self.line);
                if std::mem::take(&mut self.overlong) {
                    tracing::debug!(session = self.session, "an overlong line of a file server was skipped");
                } else {
                    self.line(&line).await;
                }
            }
        }
        self
    }

    async fn line(&mut self, line: &[u8]) {
        let event = match Event::parse(line) {
            Ok(event) => event,
            Err(error) => {
                // A complaint, such as that the root directory is missing; or the sandbox is not honest, and then its own user
                // sees it as from any program in there.
                let text = String::from_utf8_lossy(line);
                tracing::debug!(session = self.session, %error, line = %text.escape_debug(), "not an audit line");
                self.said = self.said.saturating_add(line.len() + 1);
                if self.said <= MOST_WORDS {
                    self.words.extend_from_slice(line);
                    self.words.push(b'\n');
                }
                return;
            }
        };
        match event.verb {
            Verb::Opened => {
                self.open.opened(event.path.into_owned());
                return;
            }
            Verb::Wrote => self.open.closed(&event.path),
            _ => {}
        }
        let action = match event.verb {
            Verb::Opened | Verb::Wrote => "file.write",
            Verb::Resized => "file.resize",
            Verb::Removed => "file.remove",
            Verb::RemovedDir => "dir.remove",
            Verb::MadeDir => "dir.make",
            Verb::Renamed => "file.rename",
            Verb::Linked => "file.link",
            Verb::Symlinked => "file.symlink",
            Verb::Changed => "file.change",
        };
        let row = self.row(action, &what(&event));
        self.add(row).await;
    }

    /// The end of the stream: what was never closed is told.
    pub(crate) async fn finish(mut self) {
        for path in std::mem::take(&mut self.open).paths() {
            let row = self.row("file.write.cut", &quoted(&path));
            self.add(row).await;
        }
    }

    async fn add(&mut self, row: AuditRow) {
        self.rows = self.rows.saturating_add(1);
        let row = match self.rows {
            ..=MOST_ROWS => row,
            rows if rows == MOST_ROWS + 1 => AuditRow {
                action: "file.more".to_owned(),
                detail: format!(
                    "session {}: more than {MOST_ROWS} changes; the others are not recorded",
                    self.session
                ),
                ..row
            },
            _ => return,
        };
        self.gateway.audit.file_changed(row).await;
    }

    fn row(&self, action: &str, what: &str) -> AuditRow {
        let root = self.root.as_deref().map(|root| format!(", root {}", quoted(root))).unwrap_or_default();
        let detail = format!("session {}, user {}{root}: {what}", self.session, self.user);
        AuditRow {
            at: OffsetDateTime::now_utc(),
            action: action.to_owned(),
            sandbox_id: Some(self.sandbox_id.clone()),
            actor: self.actor.clone(),
            client: self.client.clone(),
            detail,
        }
    }
}

/// The paths of an event and its sizes. An agent of before this version does not tell how large the whole file is.
fn what(event: &Event<'_>) -> String {
    let mut text = quoted(&event.path);
    // Writing to a string does not fail.
    if let Some(to) = &event.to {
        let _ = write!(text, " to {}", quoted(to));
    }
    if event.verb == Verb::Wrote {
        let _ = write!(text, ", {} bytes written", event.size);
    }
    let size = if event.verb == Verb::Resized { Some(event.size) } else { event.file_size };
    if let Some(size) = size {
        let _ = write!(text, ", size {size}");
    }
    text
}

fn quoted(path: &[u8]) -> String {
    format!("\"{}\"", path.escape_ascii())
}

/// Files open for writing, each as often as it is open, at most [`MOST_OPEN`] in all.
#[derive(Default)]
struct OpenFiles {
    times: HashMap<Vec<u8>, usize>,
    all: usize,
}

impl OpenFiles {
    fn opened(&mut self, path: Vec<u8>) {
        if self.all < MOST_OPEN {
            self.all += 1;
            *self.times.entry(path).or_default() += 1;
        }
    }

    fn closed(&mut self, path: &[u8]) {
        let Some(times) = self.times.get_mut(path) else { return };
        *times -= 1;
        self.all -= 1;
        if *times == 0 {
            self.times.remove(path);
        }
    }

    /// The path of each that is open.
    fn paths(self) -> impl Iterator<Item = Vec<u8>> {
        self.times.into_iter().flat_map(|(path, times)| std::iter::repeat_n(path, times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(paths: &[&[u8]]) -> OpenFiles {
        let mut open = OpenFiles::default();
        paths.iter().for_each(|path| open.opened(path.to_vec()));
        open
    }

    #[test]
    fn a_file_that_is_open_twice_is_open_until_both_are_closed() {
        let mut open = opened(&[b"/a", b"/a", b"/b"]);
        open.closed(b"/a");
        open.closed(b"/never");
        let mut left: Vec<_> = open.paths().collect();
        left.sort();
        assert_eq!(left, [b"/a", b"/b"]);
        let mut open = opened(&[b"/a", b"/a"]);
        (0..3).for_each(|_| open.closed(b"/a"));
        assert_eq!((open.all, open.paths().count()), (0, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded_whatever_it_is_called() {
        let mut open = OpenFiles::default();
        for number in 0..2 * MOST_OPEN {
            open.opened(if number % 2 == 0 { b"/same".to_vec() } else { number.to_string().into_bytes() });
        }
        assert_eq!(open.paths().count(), MOST_OPEN);
    }

    #[test]
    fn rows_tell_what_was_written_and_how_large_the_file_is() {
        for (line, text) in [
            ("wrote 5 /a%20b 12", "\"/a b\", 5 bytes written, size 12"),
            ("resized 7 /a", "\"/a\", size 7"),
            ("renamed 0 /a /b 0", "\"/a\" to \"/b\", size 0"),
            ("removed 0 /a%0A 3", "\"/a\\n\", size 3"),
            ("removed 0 /link", "\"/link\""),
            ("made-dir 0 /d", "\"/d\""),
            ("linked 0 /a /b", "\"/a\" to \"/b\""),
            // As agents wrote it before they told the size.
            ("wrote 5 /a", "\"/a\", 5 bytes written"),
            ("renamed 0 /a /b", "\"/a\" to \"/b\""),
            ("removed 0 /a", "\"/a\""),
        ] {
            assert_eq!(
                Event::parse(line.as_bytes()).map(|event| what(&event)),
                Ok(text.to_owned()),
                "{line}"
            );
        }
    }
}
