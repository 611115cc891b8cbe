//! The terminal here.

use std::io::IsTerminal as _;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sandgate_guest::{PtySpec, WindowSize};

use super::{Notices, modes};

/// What a terminal is taken for that does not say how large it is.
const USUAL_SIZE: WindowSize = WindowSize { cols: 80, rows: 24, xpixel: 0, ypixel: 0 };

/// Its size now.
pub fn size() -> WindowSize {
    match tcgetwinsize(std::io::stdin()).or_else(|_| tcgetwinsize(std::io::stdout())) {
        Ok(size) if size.ws_col > 0 => WindowSize {
            cols: size.ws_col.into(),
            rows: size.ws_row.into(),
            xpixel: size.ws_xpixel.into(),
            ypixel: size.ws_ypixel.into(),
        },
        _ => USUAL_SIZE,
    }
}

/// One like it for the process inside: TERM, size and modes. To be called before it is made raw.
pub fn pty() -> PtySpec {
    let WindowSize { cols, rows, xpixel, ypixel } = size();
    let term = std::env::var_os("TERM").map_or_else(|| b"dumb".to_vec(), OsStringExt::into_vec);
    let modes = tcgetattr(std::io::stdin()).map(|termios| modes::encode(&termios)).unwrap_or_default();
    PtySpec { term, cols, rows, xpixel, ypixel, modes }
}

/// The terminal in raw mode; as it was when dropped.
pub struct RawTerminal {
    before: Termios,
    notices: Arc<Notices>,
}

impl RawTerminal {
    /// `None` when standard input is no terminal.
    pub fn enter(notices: Arc<Notices>) -> anyhow::Result<Option<RawTerminal>> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(std::io::stdin()).context("the terminal cannot be read")?;
        let mut terminal = RawTerminal { before, notices };
        terminal.enter_again()?;
        Ok(Some(terminal))
    }

    /// As it was before.
    pub fn leave(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
        self.notices.set_raw(false);
    }

    /// Raw once more, after [`RawTerminal::leave`].
    pub fn enter_again(&mut self) -> anyhow::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("the terminal cannot be set")?;
        self.notices.set_raw(true);
        Ok(())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.leave();
    }
}
