//! What the agent's file servers changed, for the audit trail.
//!
//! The lines come from inside the sandbox, so they are as true as the sandbox is honest; they are bounded, and nothing but rows of
//! this sandbox can come of them.

use std::collections::HashSet;
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
    actor: String,
    client: Option<String>,
    line: Vec<u8>,
    /// The line at hand is too long; the rest of it is skipped.
    overlong: bool,
    /// Opened for writing and not closed yet: told at the end, when the server was killed.
    open: HashSet<Vec<u8>>,
    rows: u32,
    /// Lines for the client, not handed out yet; and how many bytes of such there were.
    words: Vec<u8>,
    said: usize,
}

impl FileAudit {
    pub(crate) fn new(gateway: Arc<Gateway>, info: &SessionInfo, user: Option<&[u8]>) -> Self {
        Self {
            gateway,
            session: info.id.clone(),
            sandbox_id: info.sandbox_id.clone(),
            // Process 1 of the sandbox, which is what the agent is, runs as root in there.
            user: user.map_or_else(|| "root".to_owned(), |user| String::from_utf8_lossy(user).into_owned()),
            actor: info.credential.clone(),
            client: info.client.map(|client| client.to_string()),
            line: Vec::new(),
            overlong: false,
            open: HashSet::new(),
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
                if self.open.len() < MOST_OPEN {
                    self.open.insert(event.path.into_owned());
                }
                return;
            }
            Verb::Wrote => drop(self.open.remove(&*event.path)),
            _ => {}
        }
        let (action, size) = match event.verb {
            Verb::Opened | Verb::Wrote => ("file.write", Some(event.size)),
            Verb::Resized => ("file.resize", Some(event.size)),
            Verb::Removed => ("file.remove", None),
            Verb::RemovedDir => ("dir.remove", None),
            Verb::MadeDir => ("dir.make", None),
            Verb::Renamed => ("file.rename", None),
            Verb::Linked => ("file.link", None),
            Verb::Symlinked => ("file.symlink", None),
            Verb::Changed => ("file.change", None),
        };
        let row = self.row(action, &event.path, event.to.as_deref(), size);
        self.add(row).await;
    }

    /// The end of the stream: what was never closed is told.
    pub(crate) async fn finish(mut self) {
        for path in std::mem::take(&mut self.open) {
            let row = self.row("file.write.cut", &path, None, None);
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

    fn row(&self, action: &str, path: &[u8], to: Option<&[u8]>, size: Option<u64>) -> AuditRow {
        let mut detail = format!("session {}, user {}: \"{}\"", self.session, self.user, path.escape_ascii());
        if let Some(to) = to {
            // Writing to a string does not fail.
            let _ = write!(detail, " to \"{}\"", to.escape_ascii());
        }
        if let Some(size) = size {
            let _ = write!(detail, ", {size} bytes");
        }
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
