//! A program on a local pseudo-terminal, as a person would run it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::process::Guard;

/// The program and the master side of its terminal.
pub struct Terminal {
    process: Guard,
    master: File,
    screen: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Terminal {
    /// Starts `command` with a controlling terminal of this size.
    ///
    /// # Panics
    /// When the pty or the program cannot be had.
    pub fn spawn(command: &Command, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let master = File::from(master);
        tcsetwinsize(&master, size(columns, rows)).unwrap();
        // setsid(1) makes the terminal the controlling one, which otherwise needs code between fork and exec.
        let mut wrapped = Command::new("setsid");
        wrapped.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped.stdin(Stdio::from(slave.try_clone().unwrap()));
        wrapped.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave));
        let process = Guard::spawn(&mut wrapped);
        drop(wrapped);
        let screen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut reader, into) = (master.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            // EIO is how a pty says that its last user has gone.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { process, master, screen, seen: 0 }
    }

    /// Types these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.master.write_all(bytes.as_ref()).unwrap();
    }

    /// Waits for `text` in the output that no earlier call has passed over, and returns what came before it.
    ///
    /// # Panics
    /// When it does not come within 20 s.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let mut found = None;
        crate::wait::until(Duration::from_secs(20), || {
            let screen = self.screen.lock().unwrap();
            found = find(&screen[self.seen..], text.as_bytes());
            found.is_some()
        });
        let screen = self.screen.lock().unwrap();
        let fresh = &screen[self.seen..];
        let Some(at) = found else { panic!("no {text:?} in {:?}", String::from_utf8_lossy(fresh)) };
        let before = String::from_utf8_lossy(&fresh[..at]).into_owned();
        self.seen += at + text.len();
        before
    }

    /// Waits until the terminal sends no signals for keys, as while it shows a remote one. A line editor leaves that on.
    ///
    /// # Panics
    /// When that does not come within 20 s.
    #[track_caller]
    pub fn wait_for_raw(&self) {
        let raw = || !tcgetattr(&self.master).unwrap().local_modes.contains(LocalModes::ISIG);
        assert!(crate::wait::until(Duration::from_secs(20), raw), "not raw; screen: {}", self.screen());
    }

    /// Changes the window size; the program gets SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.master, size(columns, rows)).unwrap();
    }

    /// The exit code.
    ///
    /// # Panics
    /// When the program is not done within 20 s.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        self.process
            .wait(Duration::from_secs(20))
            .unwrap_or_else(|| panic!("still running; screen: {}", self.screen()))
    }

    /// All that was printed so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: columns * 8, ws_ypixel: rows * 16 }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
