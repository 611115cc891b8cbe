//! Whether a recording is as it was written.

use std::fmt;
use std::io::{self, BufRead};

use crate::chain::{Chain, Head};
use crate::header;
use crate::lines::{self, Line};

/// What a recording turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it was written, from its start to its end.
    Complete(Head),
    /// As it was written up to this link, and without an end: the session goes on, its gateway died, or somebody has cut it here.
    Cut {
        /// The last link.
        head: Head,
        /// Bytes after that, for which nothing stands.
        beyond: u64,
    },
    /// Something is not as it was written.
    Changed {
        /// The last line that is known to be good.
        after: u64,
        /// The line at which it shows.
        line: u64,
    },
    /// It has a chain of its own, but not the one that was noted when it was written.
    Rewritten,
}

impl Verdict {
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        matches!(self, Verdict::Complete(_) | Verdict::Cut { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Complete(head) => write!(f, "valid and complete ({} links)", head.count),
            Verdict::Cut { head, beyond: 0 } => {
                write!(f, "valid up to its last flush ({} links), without an end", head.count)
            }
            Verdict::Cut { head, beyond } => write!(
                f,
                "valid up to its last flush ({} links), without an end; {beyond} bytes after that are not covered",
                head.count
            ),
            Verdict::Changed { after, line } => {
                write!(f, "changed: it does not fit at line {line}; good up to line {after}")
            }
            Verdict::Rewritten => f.write_str("rewritten or cut: it does not fit what was noted of it"),
        }
    }
}

/// Checks a recording against itself, and against the link that was `noted` elsewhere while it was written.
///
/// # Errors
/// It cannot be read.
pub fn verify(mut source: impl BufRead, noted: Option<&Head>) -> io::Result<Verdict> {
    let Line::Whole(first) = lines::next(&mut source)? else {
        return Ok(Verdict::Changed { after: 0, line: 1 });
    };
    let Some((form, id)) = header::seed(&first) else {
        return Ok(Verdict::Changed { after: 0, line: 1 });
    };
    let mut chain = Chain::new(form, &id);
    chain.line(&first);
    let noted = noted.filter(|noted| noted.count > 0);
    let (mut number, mut good, mut seen) = (1_u64, 0_u64, noted.is_none());
    // Since the last link, in bytes.
    let mut open = first.len() as u64 + 1;
    let (mut ended, mut closed) = (false, false);
    let torn = loop {
        let line = lines::next(&mut source)?;
        number = number.saturating_add(1);
        let changed = Verdict::Changed { after: good, line: number };
        let line = match line {
            Line::Whole(line) => line,
            Line::End => break 0,
            Line::Torn(bytes) if !closed => break bytes,
            Line::Torn(_) | Line::TooLong => return Ok(changed),
        };
        if closed {
            return Ok(changed);
        }
        if line.starts_with(form.link_prefix()) {
            if chain.link().as_bytes() != line {
                return Ok(changed);
            }
            (good, open, closed) = (number, 0, ended);
            // What was noted is the last that the gateway wrote, so whatever goes on from there is somebody else's.
            if noted.is_some_and(|noted| chain.head().count > noted.count) {
                return Ok(Verdict::Rewritten);
            }
            if let Some(noted) = noted.filter(|noted| noted.count == chain.head().count) {
                if noted != chain.head() {
                    return Ok(Verdict::Rewritten);
                }
                seen = true;
            }
            continue;
        }
        // After the end comes its link and nothing else.
        if ended {
            return Ok(changed);
        }
        ended = line.starts_with(form.end_prefix());
        open = open.saturating_add(line.len() as u64 + 1);
        chain.line(&line);
    };
    Ok(match (seen, closed) {
        (false, _) => Verdict::Rewritten,
        (true, true) => Verdict::Complete(chain.head().clone()),
        (true, false) => Verdict::Cut { head: chain.head().clone(), beyond: open.saturating_add(torn) },
    })
}
