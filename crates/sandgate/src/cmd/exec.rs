//! `sandgate exec`: a command in a sandbox, with this terminal or these pipes.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sandgate_web::api::{ExecRequest, Tty};
use sandgate_web::client::Client;
use sandgate_web::frames::{CHUNK, WINDOW, credit, frame};
use sandgate_wire::frame::{Decoder, Item, Kind};
use sandgate_wire::message::{Exit, Refused, Size, decode_u32};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use crate::values;

/// Frames that may wait to be sent. Whoever has more waits.
const QUEUE: usize = 16;
/// What a terminal is taken for that does not say how large it is.
const USUAL_SIZE: Size = Size { cols: 80, rows: 24, xpixel: 0, ypixel: 0 };

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the sandbox
    sandbox: String,
    /// With a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// User inside
    #[arg(short, long, value_name = "USER")]
    user: Option<OsString>,
    /// Variable for the command; may be given several times
    #[arg(short, long, value_name = "K=V")]
    env: Vec<OsString>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

pub async fn run(data_dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let env = args
        .env
        .iter()
        .map(values::variable_bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(anyhow::Error::msg)?;
    let size = terminal_size();
    let tty = args.tty.then(|| Tty {
        term: std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()),
        cols: size.cols,
        rows: size.rows,
    });
    let request = ExecRequest {
        argv: args.command.into_iter().map(values::into_bytes).collect(),
        tty,
        user: args.user.map(values::into_bytes),
        env,
    };
    let stream = Client::new(data_dir).exec(&args.sandbox, &request).await?;
    let raw = if args.tty { RawTerminal::enter()? } else { None };
    let end = talk(stream, args.tty).await;
    drop(raw);
    let code = exit_code(&end?);
    // Not by way of main: a read of the terminal may be waiting in a thread.
    std::io::stdout().flush().ok();
    std::process::exit(code)
}

/// Passes everything in both directions until the command has ended.
async fn talk(stream: impl AsyncRead + AsyncWrite + Send + 'static, tty: bool) -> anyhow::Result<Exit> {
    let (from_server, mut to_server) = tokio::io::split(stream);
    let (frames, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    let input_credit = Arc::new(Semaphore::new(WINDOW as usize));
    let sender = tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            if to_server.write_all(&frame).await.is_err() {
                break;
            }
        }
    });
    let input = tokio::spawn(send_input(frames.clone(), input_credit.clone()));
    let signals = tokio::spawn(send_signals(frames.clone(), tty));
    let end = receive(from_server, &frames, &input_credit).await;
    input.abort();
    signals.abort();
    sender.abort();
    end
}

/// Sends standard input as far as the credit goes, then its end.
async fn send_input(frames: mpsc::Sender<Vec<u8>>, allowed: Arc<Semaphore>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let Ok(permits) = allowed.acquire_many(u32::try_from(read).unwrap_or(WINDOW)).await else { return };
        permits.forget();
        if frames.send(frame(Kind::Stdin, &buffer[..read])).await.is_err() {
            return;
        }
    }
    // The receiver is gone only when all is over.
    let _ = frames.send(frame(Kind::Eof, &[])).await;
}

/// Sends window sizes and signals.
async fn send_signals(frames: mpsc::Sender<Vec<u8>>, tty: bool) -> std::io::Result<()> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    loop {
        let name = tokio::select! {
            _ = resized.recv() => {
                if tty && frames.send(frame(Kind::Resize, &terminal_size().encode())).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            _ = interrupt.recv() => "INT",
            _ = terminate.recv() => "TERM",
            _ = hangup.recv() => "HUP",
            _ = quit.recv() => "QUIT",
        };
        if frames.send(frame(Kind::Signal, name.as_bytes())).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes out what the command writes, and returns how it ended.
async fn receive(
    mut from_server: impl AsyncRead + Unpin,
    frames: &mpsc::Sender<Vec<u8>>,
    input_credit: &Semaphore,
) -> anyhow::Result<Exit> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut stderr_open = true;
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from_server.read(&mut buffer).await.context("the connection to the gateway broke")?;
        if read == 0 {
            bail!("the gateway ended the connection");
        }
        let mut input = &buffer[..read];
        while let Some(item) =
            decoder.next(&mut input).context("the gateway's answer cannot be understood")?
        {
            match item {
                Item::Data { kind: Kind::Stdout, chunk, .. } => {
                    if !write(&mut stdout, chunk).await {
                        // Whoever read us has gone. Hanging up ends the command, and this is what a pipe would have done to it.
                        return Ok(Exit::Signal {
                            name: "PIPE".to_owned(),
                            core_dumped: false,
                            message: String::new(),
                        });
                    }
                    // The receiver is gone only when the connection is, which the next read tells.
                    let _ = frames.send(credit(chunk.len())).await;
                }
                Item::Data { kind: Kind::Stderr, chunk, .. } => {
                    stderr_open = stderr_open && write(&mut stderr, chunk).await;
                    let _ = frames.send(credit(chunk.len())).await;
                }
                Item::Control { kind: Kind::Credit, payload, .. } => {
                    let given =
                        decode_u32(payload).context("the gateway's answer cannot be understood")? as usize;
                    if given > WINDOW as usize || input_credit.available_permits() + given > WINDOW as usize {
                        bail!("the gateway gave more credit than was used");
                    }
                    input_credit.add_permits(given);
                }
                Item::Control { kind: Kind::Exit, payload, .. } => {
                    return Exit::decode(payload).context("the gateway's answer cannot be understood");
                }
                Item::Control { kind: Kind::Refused, payload, .. } => {
                    let refused =
                        Refused::decode(payload).context("the gateway's answer cannot be understood")?;
                    bail!("{}", refused.text);
                }
                Item::Data { .. } | Item::Control { .. } => {
                    bail!("the gateway's answer cannot be understood")
                }
            }
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), chunk: &[u8]) -> bool {
    to.write_all(chunk).await.is_ok() && to.flush().await.is_ok()
}

fn terminal_size() -> Size {
    match tcgetwinsize(std::io::stdin()).or_else(|_| tcgetwinsize(std::io::stdout())) {
        Ok(size) if size.ws_col > 0 => Size {
            cols: size.ws_col.into(),
            rows: size.ws_row.into(),
            xpixel: size.ws_xpixel.into(),
            ypixel: size.ws_ypixel.into(),
        },
        _ => USUAL_SIZE,
    }
}

/// The code that a shell would give.
fn exit_code(end: &Exit) -> i32 {
    match end {
        Exit::Code(code) => i32::try_from(*code & 0xff).unwrap_or(1),
        Exit::Signal { name, .. } => 128 + signal_number(name),
    }
}

/// Linux's number of a signal.
fn signal_number(name: &str) -> i32 {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Some(offset) = name.strip_prefix("RTMIN+").and_then(|offset| offset.parse::<i32>().ok()) {
        return 34 + offset.clamp(0, 30);
    }
    NAMES.iter().zip(1..).find(|(known, _)| **known == name).map_or(127, |(_, number)| number)
}

/// The terminal in raw mode; as it was when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` when standard input is no terminal.
    fn enter() -> anyhow::Result<Option<RawTerminal>> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(std::io::stdin()).context("the terminal cannot be read")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("the terminal cannot be set")?;
        Ok(Some(RawTerminal(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        let signal =
            |name: &str| Exit::Signal { name: name.into(), core_dumped: false, message: String::new() };
        assert_eq!(exit_code(&Exit::Code(0)), 0);
        assert_eq!(exit_code(&Exit::Code(7)), 7);
        assert_eq!(exit_code(&Exit::Code(256)), 0);
        assert_eq!(exit_code(&signal("KILL")), 137);
        assert_eq!(exit_code(&signal("TERM")), 143);
        assert_eq!(exit_code(&signal("INT")), 130);
        assert_eq!(exit_code(&signal("SEGV")), 139);
        assert_eq!(exit_code(&signal("SYS")), 159);
    }
}
