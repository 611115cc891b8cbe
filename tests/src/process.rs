//! Running a program with a deadline, its input fed and its output collected.

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a program gets as standard input.
pub enum Feed {
    /// `/dev/null`.
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// A pipe that stays open and silent until the program has ended.
    Silence,
}

/// What came of a run.
#[derive(Debug)]
pub struct Output {
    /// The exit code; a death by signal `n` is `128 + n`, as a shell would say.
    pub code: i32,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: Vec<u8>,
    /// From the start to the exit of the program.
    pub took: Duration,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts exit code 0 and returns standard output without the final newline.
    ///
    /// # Panics
    /// With all that the program said, when it failed.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", shorten(&self.stdout), shorten(&self.stderr));
        self.text().trim_end_matches('\n').to_owned()
    }

    /// Asserts the exit code and returns the output for further questions.
    ///
    /// # Panics
    /// With all that the program said, when the code differs.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", shorten(&self.stdout), shorten(&self.stderr));
        self
    }
}

fn shorten(bytes: &[u8]) -> String {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
    if bytes.len() > 2000 { format!("{head}… ({} bytes)", bytes.len()) } else { head }
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started, or is not done, output included, by the deadline; its process group is killed then.
#[track_caller]
pub fn run(command: &mut Command, feed: Feed, deadline: Duration) -> Output {
    match try_run(command, feed, deadline) {
        Ok(output) => output,
        Err(Overdue { stdout, stderr }) => panic!(
            "not done after {deadline:?}: {command:?}\nstdout: {}\nstderr: {}",
            shorten(&stdout),
            shorten(&stderr)
        ),
    }
}

/// A program that had to be killed at its deadline, with what it had said until then.
#[derive(Debug)]
pub struct Overdue {
    /// Standard output so far.
    pub stdout: Vec<u8>,
    /// Standard error so far.
    pub stderr: Vec<u8>,
}

/// As [`run`], but the deadline is an error value.
///
/// # Errors
/// [`Overdue`] when the deadline passed.
///
/// # Panics
/// When the program cannot be started.
#[track_caller]
pub fn try_run(command: &mut Command, feed: Feed, deadline: Duration) -> Result<Output, Overdue> {
    let start = Instant::now();
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if matches!(feed, Feed::Null) { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn().unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"));
    let pid = child.id();
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let silence = match feed {
        Feed::Bytes(bytes) => {
            let mut stdin = stdin.unwrap();
            // The program may end without reading it all; that is its right.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)));
            None
        }
        Feed::Silence => stdin,
        Feed::Null => None,
    };
    let (stdout, stdout_done) = collect(stdout);
    let (stderr, stderr_done) = collect(stderr);
    let (exited, exit) = mpsc::channel();
    std::thread::spawn(move || drop(exited.send((child.wait(), Instant::now()))));

    let end = start + deadline;
    let left = || end.saturating_duration_since(Instant::now());
    let exit = exit.recv_timeout(left());
    let done =
        exit.is_ok() && stdout_done.recv_timeout(left()).is_ok() && stderr_done.recv_timeout(left()).is_ok();
    drop(silence);
    let (stdout, stderr) =
        (std::mem::take(&mut *stdout.lock().unwrap()), std::mem::take(&mut *stderr.lock().unwrap()));
    if !done {
        kill_group(pid);
        return Err(Overdue { stdout, stderr });
    }
    let (status, at) = exit.expect("done");
    let status = status.expect("wait");
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Output { code, stdout, stderr, took: at - start })
}

type Shared = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;

fn collect(mut pipe: impl Read + Send + 'static) -> (Shared, mpsc::Receiver<()>) {
    let shared = Shared::default();
    let (done, receiver) = mpsc::channel();
    let into = shared.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
        let _ = done.send(());
    });
    (shared, receiver)
}

fn kill_group(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// A child that is killed, with its process group, when the guard goes.
pub struct Guard(Child);

impl Guard {
    /// Starts `command` in a process group of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap_or_else(|err| panic!("cannot start {command:?}: {err}")))
    }

    /// The process id.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_raw(self.0.id() as i32).expect("a child has a pid")
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process(self.pid(), signal);
    }

    /// The child's own handle, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// The exit code if it ends within the deadline (128 + n for a signal).
    pub fn wait(&mut self, deadline: Duration) -> Option<i32> {
        let mut code = None;
        crate::wait::until(deadline, || {
            code = self
                .0
                .try_wait()
                .ok()
                .flatten()
                .map(|it| it.code().unwrap_or_else(|| 128 + it.signal().unwrap_or(0)));
            code.is_some()
        });
        code
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            kill_group(self.0.id());
            let _ = self.0.wait();
        }
    }
}

/// The parent of a process.
///
/// # Panics
/// When it is gone.
pub fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// Resident memory of a process in bytes; 0 when it is gone.
pub fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The highest that a process's resident memory ever was, in bytes; 0 when it is gone.
pub fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_overstays_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo early; sleep 60"]);
        let overdue = try_run(&mut command, Feed::Null, Duration::from_millis(300)).unwrap_err();
        assert_eq!(overdue.stdout, b"early\n");
    }

    #[test]
    fn silence_is_not_the_end_of_input() {
        let mut command = Command::new("sh");
        command.args(["-c", "read -t 0.2 x; echo $?"]);
        let output = run(&mut command, Feed::Silence, Duration::from_secs(5));
        assert_ne!(output.ok(), "0");
        let output = run(Command::new("sh").args(["-c", "exit 9"]), Feed::Silence, Duration::from_secs(5));
        output.exits(9);
    }
}
