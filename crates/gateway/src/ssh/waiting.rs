//! The one line that a user reads while a session waits for its sandbox: `sandgate: starting box … 3 s`.
//!
//! It begins at once, without its end, and is completed when the shell comes. What is being done meanwhile is told only on a terminal, where
//! the line can be written anew. No I/O and no clock: text and `now` in, text out.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Between two looks at the clock on a terminal. A start that takes less is never written anew.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Columns of a terminal that does not say how many it has.
const USUAL_COLUMNS: usize = 80;
/// Below this a time is told in tenths of a second.
const TENTHS: Duration = Duration::from_millis(950);

/// How the waiting has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The sandbox runs.
    Up,
    /// It does not; a line that says why follows.
    Failed,
}

/// The line. Nothing is written for a sandbox that runs already.
#[derive(Debug)]
pub(super) struct WaitLine {
    /// Characters that may be written anew; `None` without a terminal.
    room: Option<usize>,
    eol: &'static str,
    open: Option<Open>,
}

/// A line that has begun.
#[derive(Debug)]
struct Open {
    since: Instant,
    head: String,
    /// What is being done.
    step: Option<String>,
    /// Characters that stand there; `None` while it was not written anew.
    shown: Option<usize>,
}

impl WaitLine {
    /// For a session with a terminal of so many columns, or without one.
    pub(super) fn new(columns: Option<u32>, eol: &'static str) -> Self {
        let columns = columns.map(|columns| usize::try_from(columns).unwrap_or(USUAL_COLUMNS));
        // A cursor behind the last column does not go back to the line's begin on every terminal.
        let room = columns.map(|columns| if columns == 0 { USUAL_COLUMNS - 1 } else { columns - 1 });
        Self { room, eol, open: None }
    }

    /// Something is being done: the first begins the line.
    pub(super) fn step(&mut self, text: &str, now: Instant) -> Option<String> {
        if let Some(open) = &mut self.open {
            open.step = Some(text.to_owned());
            return None;
        }
        let head = format!("sandgate: {text} … ");
        self.open = Some(Open { since: now, head: head.clone(), step: None, shown: None });
        Some(head)
    }

    /// Whether [`WaitLine::tick`] may have something to say.
    pub(super) fn ticks(&self) -> bool {
        self.open.as_ref().is_some_and(|open| self.room.is_some_and(|room| open.head.chars().count() < room))
    }

    /// A [`TICK`] has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Option<String> {
        if !self.ticks() {
            return None;
        }
        let (room, open) = (self.room?, self.open.as_mut()?);
        let mut line = format!("{}{}", open.head, brief(now.saturating_duration_since(open.since)));
        if let Some(step) = &open.step {
            let _ = write!(line, " ({step})");
        }
        Some(open.anew(line.chars().take(room).collect()))
    }

    /// The waiting is over; what comes next begins a line.
    pub(super) fn end(&mut self, how: End, now: Instant) -> Option<String> {
        let mut open = self.open.take()?;
        let end = match how {
            End::Up => brief(now.saturating_duration_since(open.since)),
            End::Failed => "failed".to_owned(),
        };
        let line = match open.shown {
            Some(_) => open.anew(format!("{}{end}", open.head)),
            None => end,
        };
        Some(line + self.eol)
    }
}

impl Open {
    /// Over what stands there.
    fn anew(&mut self, line: String) -> String {
        let length = line.chars().count();
        let before = self.shown.replace(length).unwrap_or_default();
        format!("\r{line}{:1$}", "", before.saturating_sub(length))
    }
}

/// A time for a person.
fn brief(time: Duration) -> String {
    if time < TENTHS {
        let tenths = (time.as_millis() + 50) / 100;
        return format!("0.{} s", tenths.max(1));
    }
    format!("{} s", (time + Duration::from_millis(500)).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    #[test]
    fn it_begins_at_once_and_ends_with_the_time() {
        let begin = Instant::now();
        let mut line = WaitLine::new(None, "\n");
        assert_eq!(line.end(End::Up, begin), None, "nothing was waited for");
        assert_eq!(line.step("starting box", begin).as_deref(), Some("sandgate: starting box … "));
        assert_eq!(line.step("booting the kernel", after(begin, 500)), None);
        assert!(!line.ticks());
        assert_eq!(line.tick(after(begin, 1000)), None, "it cannot be written anew");
        assert_eq!(line.end(End::Up, after(begin, 2900)).as_deref(), Some("3 s\n"));
        assert_eq!(line.end(End::Up, after(begin, 3000)), None, "once");
    }

    #[test]
    fn on_a_terminal_it_is_written_anew_and_leaves_nothing_of_what_it_said() {
        let begin = Instant::now();
        let mut line = WaitLine::new(Some(50), "\r\n");
        line.step("starting box", begin);
        assert_eq!(line.tick(after(begin, 1000)).as_deref(), Some("\rsandgate: starting box … 1 s"));
        line.step("booting the kernel once, for all", after(begin, 1200));
        let anew = "\rsandgate: starting box … 2 s (booting the kernel ";
        assert_eq!(anew.chars().count(), 50);
        assert_eq!(line.tick(after(begin, 2000)).as_deref(), Some(anew));
        let last = format!("\rsandgate: starting box … 4 s{:1$}\r\n", "", 49 - 28);
        assert_eq!(line.end(End::Up, after(begin, 4100)), Some(last));
    }

    #[test]
    fn a_short_wait_and_a_narrow_terminal_are_not_written_anew() {
        let begin = Instant::now();
        let mut line = WaitLine::new(Some(80), "\r\n");
        line.step("starting box", begin);
        assert_eq!(line.end(End::Up, after(begin, 700)).as_deref(), Some("0.7 s\r\n"));
        let mut line = WaitLine::new(Some(10), "\r\n");
        line.step("starting box", begin);
        assert!(!line.ticks());
        assert_eq!(line.end(End::Failed, after(begin, 9000)).as_deref(), Some("failed\r\n"));
        assert_eq!(WaitLine::new(Some(0), "\r\n").room, Some(79));
    }

    #[test]
    fn times_are_short() {
        for (millis, text) in
            [(0, "0.1 s"), (40, "0.1 s"), (650, "0.7 s"), (949, "0.9 s"), (950, "1 s"), (61_400, "61 s")]
        {
            assert_eq!(brief(Duration::from_millis(millis)), text, "{millis} ms");
        }
    }
}
