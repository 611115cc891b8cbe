//! What a terminal shows, so that somebody who comes back, or looks on, finds it.
//!
//! An emulator (avt) is fed with all output. It costs a few megabytes at most and stays as it is however much a program writes, so it is
//! also what takes the output of a shell that nobody watches.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use avt::{Cell, Color, Line, Pen, Rgb, ScreenKind, Terminal};

use super::decode::Utf8;
use super::modes::Modes;
use super::trim::trimmed;

/// Lines kept above the screen.
pub(super) const SCROLLBACK: usize = 1000;
/// Most bytes of those that are sent to somebody who comes: a program can give each character colours of its own. The oldest lines
/// are left out.
const MAX_SCROLLBACK_BYTES: usize = 1024 * 1024;
/// Sequences that the emulator gets between two looks at the clock. The worst of them takes some milliseconds.
const SEQUENCES: usize = 4;
/// Fewest and most columns and rows.
const SIZES: std::ops::RangeInclusive<u32> = 1..=1000;

/// The size of a terminal that we are ready to keep.
pub(super) fn clamp(size: u32) -> u32 {
    size.clamp(*SIZES.start(), *SIZES.end())
}

/// The screen with what is above it.
pub(super) struct Screen {
    terminal: Terminal,
    utf8: Utf8,
    modes: Modes,
    /// What one piece of output decodes to.
    text: String,
    /// As far as the emulator has it, in bytes.
    done: usize,
}

impl Screen {
    /// An empty one. Sizes outside of 1 to 1000 are cut.
    pub(super) fn new(cols: u32, rows: u32) -> Option<Self> {
        let terminal = Terminal::with_scrollback(cells(cols), cells(rows), Some(SCROLLBACK)).ok()?;
        Some(Self { terminal, utf8: Utf8::default(), modes: Modes::default(), text: String::new(), done: 0 })
    }

    /// Takes output of the program, which [`Self::advance`] brings to the screen.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        debug_assert!(self.done == self.text.len(), "what came before is on the screen");
        self.text.clear();
        self.done = 0;
        self.utf8.decode(bytes, &mut self.text);
        self.modes.follow(&self.text);
    }

    /// Brings more of what was taken to the screen, and says whether that was all. It stops soon after so much time: a sequence of a few
    /// bytes can ask for tens of thousands of characters, or for all of a large screen.
    pub(super) fn advance(&mut self, most: Duration) -> bool {
        let began = Instant::now();
        for turn in 1_usize.. {
            let rest = self.text.get(self.done..).unwrap_or_default();
            if rest.is_empty() {
                return true;
            }
            // To where the next sequence begins, or the one after it.
            let next =
                rest.char_indices().skip(1).find(|(_, character)| matches!(character, '\x1b' | '\u{9b}'));
            let segment = rest.get(..next.map_or(rest.len(), |(at, _)| at)).unwrap_or(rest);
            self.terminal.feed(segment);
            self.done += segment.len();
            if turn.is_multiple_of(SEQUENCES) && began.elapsed() >= most {
                break;
            }
        }
        self.done == self.text.len()
    }

    /// Takes output and brings all of it to the screen.
    #[cfg(test)]
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.take(bytes);
        while !self.advance(Duration::MAX) {}
    }

    /// Changes the size.
    pub(super) fn resize(&mut self, cols: u32, rows: u32) {
        self.terminal.resize(cells(cols), cells(rows));
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (u32, u32) {
        let (cols, rows) = self.terminal.size();
        (u32::try_from(cols).unwrap_or(u32::MAX), u32::try_from(rows).unwrap_or(u32::MAX))
    }

    /// What makes an emulator of the same size that has just been reset show the same, with the same modes, in the middle of the same escape
    /// sequence and character.
    pub(super) fn dump(&self) -> Vec<u8> {
        let mut dump = String::new();
        self.modes.dump(&mut dump);
        self.scrollback(&mut dump);
        trimmed(&self.terminal.dump(), &mut dump);
        let mut dump = dump.into_bytes();
        dump.extend_from_slice(self.utf8.begun());
        dump
    }

    /// The lines above the screen, and then as many empty ones as it takes to move all of them there.
    fn scrollback(&self, dump: &mut String) {
        let (_, rows) = self.terminal.size();
        let all: Vec<&Line> = self.terminal.primary_screen().all_lines().collect();
        let above = all.get(..all.len().saturating_sub(rows)).unwrap_or_default();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        for line in above.iter().rev() {
            let line = written(line);
            bytes += line.len();
            if bytes > MAX_SCROLLBACK_BYTES {
                break;
            }
            lines.push(line);
        }
        if lines.is_empty() {
            return;
        }
        dump.extend(lines.into_iter().rev());
        // The first line of the screen begins anew even where it goes on with the last one above: only the kind of break is lost.
        if above.last().is_some_and(|last| last.is_wrapped()) {
            dump.push_str("\r\n");
        }
        dump.extend(std::iter::repeat_n('\n', rows - 1));
        dump.push_str("\x1b[H");
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> Vec<String> {
        self.terminal.primary_screen().all_lines().map(|line| line.text().trim_end().to_owned()).collect()
    }
}

fn cells(size: u32) -> usize {
    usize::try_from(clamp(size)).unwrap_or(1)
}

/// A line as text with colours, ended where the program ended it.
fn written(line: &Line) -> String {
    let cells = line.cells();
    let length = if line.is_wrapped() {
        cells.len()
    } else {
        let empty = |cell: &&Cell| cell.char() == ' ' && cell.pen().is_default();
        cells.len() - cells.iter().rev().take_while(empty).count()
    };
    let mut text = String::with_capacity(length + 2);
    let mut pen = Pen::default();
    // The second half of a wide character has no width.
    for cell in cells.iter().take(length).filter(|cell| cell.width() > 0) {
        if *cell.pen() != pen {
            pen = *cell.pen();
            colour(&pen, &mut text);
        }
        text.push(cell.char());
    }
    if !pen.is_default() {
        text.push_str("\x1b[m");
    }
    if !line.is_wrapped() {
        text.push_str("\r\n");
    }
    text
}

/// The sequence after which text is written with this pen, whatever was before.
fn colour(pen: &Pen, text: &mut String) {
    text.push_str("\x1b[0");
    for (on, code) in [
        (pen.is_bold(), ";1"),
        (pen.is_faint(), ";2"),
        (pen.is_italic(), ";3"),
        (pen.is_underline(), ";4"),
        (pen.is_blink(), ";5"),
        (pen.is_inverse(), ";7"),
        (pen.is_strikethrough(), ";9"),
    ] {
        if on {
            text.push_str(code);
        }
    }
    for (plane, colour) in [(38, pen.foreground()), (48, pen.background())] {
        let _ = match colour {
            None => Ok(()),
            Some(Color::Indexed(index)) => write!(text, ";{plane};5;{index}"),
            Some(Color::RGB(Rgb { r, g, b })) => write!(text, ";{plane};2;{r};{g};{b}"),
        };
    }
    text.push('m');
}

impl std::fmt::Debug for Screen {
    /// Without what is on it, which is the user's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let alternate = self.terminal.active_screen_kind() == ScreenKind::Alternate;
        f.debug_struct("Screen").field("size", &self.size()).field("alternate", &alternate).finish()
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
