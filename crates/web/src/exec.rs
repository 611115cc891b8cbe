//! `POST /v1/sandboxes/{name}/exec`: a session of the session core over an upgraded connection. See [`crate::frames`].

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::TokioIo;
use sandgate_driver::NoProgress;
use sandgate_gateway::Gateway;
use sandgate_gateway::session::{self, ConnectionGuard, Outcome, RunningSession, SessionRequest, Traffic};
use sandgate_guest::{
    ExitStatus, ProcessControl, ProcessInput, ProcessOutput, Program, PtySpec, Ready, WindowSize,
};
use sandgate_policy::{Credential, Principal, Scopes};
use sandgate_wire::frame::{Decoder, Item, Kind};
use sandgate_wire::message::{Exit, Reason, Refused, Size, decode_u32, signal_name};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Semaphore, mpsc};

use crate::api::ExecRequest;
use crate::frames::{CHUNK, PROTOCOL, WINDOW, credit, frame};
use crate::problem::{Problem, parse};

/// Longest request body, in bytes: arguments and environment as lists of numbers.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// Credit frames that may wait to be sent. The one who gives credit waits when it is full.
const CREDIT_QUEUE: usize = 16;

pub(crate) async fn start(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    mut request: Request,
) -> Result<Response, Problem> {
    check_upgrade(request.headers())?;
    let upgrade = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let asked: ExecRequest = parse(&body)?;
    if asked.argv.first().is_none_or(Vec::is_empty) {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "there is no command to run"));
    }
    let Some(sandbox_id) = gateway.sandboxes.id_of(&name) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no sandbox \"{name}\"")));
    };
    let principal = Principal {
        sandbox_id,
        sandbox_name: name,
        credential: Credential::Local,
        scopes: Scopes::all(),
        expires_at: None,
        login_user: None,
    };
    let connection = gateway.registry.connect(principal.clone());
    let pty = asked.tty.map(|tty| PtySpec {
        term: tty.term.into_bytes(),
        cols: tty.cols,
        rows: tty.rows,
        ..PtySpec::default()
    });
    let request = SessionRequest {
        program: Program::Argv(asked.argv),
        pty,
        env: asked.env,
        user: asked.user,
        peer: None,
    };
    let session = session::start(&gateway, &principal, request, &NoProgress).await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(session, connection, TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "the client of an exec went away before it began"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response)
}

fn check_upgrade(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get(header::UPGRADE).is_some_and(|value| value == PROTOCOL) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UPGRADE_REQUIRED, format!("exec needs an upgrade to {PROTOCOL}")))
}

/// How the serving of a session ended.
enum Served {
    Exit(ExitStatus),
    LinkLost(String),
    Ended(String),
    ClientGone,
}

async fn serve<S>(session: RunningSession, connection: ConnectionGuard, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let RunningSession { input, mut output, control, mut record } = session;
    let (from_client, mut to_client) = tokio::io::split(stream);
    // Holds what the client may send ahead: exactly its credit.
    let (stdin_writer, stdin_reader) = tokio::io::duplex(WINDOW as usize);
    let (credits, mut credits_out) = mpsc::channel(CREDIT_QUEUE);
    let output_credit = Semaphore::new(WINDOW as usize);
    let traffic = record.traffic().clone();
    let (mut killed, mut cut) = (record.end_signal(), connection.end_signal());

    let served = tokio::select! {
        served = send_output(&mut output, &mut to_client, &output_credit, &mut credits_out, &traffic) => served,
        // Never ends by itself: the process goes on without its input.
        () = feed_input(input, stdin_reader, credits, &traffic) => Served::ClientGone,
        result = read_client(from_client, stdin_writer, &control, &output_credit) => {
            if let Err(error) = result {
                tracing::debug!(session = record.id(), %error, "the client of an exec is gone");
            }
            Served::ClientGone
        }
        reason = killed.ended() => Served::Ended(reason.text().to_owned()),
        reason = cut.ended() => Served::Ended(reason.text().to_owned()),
    };
    let (last, outcome) = match served {
        Served::Exit(status) => {
            (Some(frame(Kind::Exit, &exit(&status).encode())), Some(Outcome::Exited(status)))
        }
        Served::LinkLost(text) => (Some(refusal(Reason::Unreachable, text)), Some(Outcome::LinkLost)),
        Served::Ended(text) => {
            (Some(refusal(Reason::ShuttingDown, text.clone())), Some(Outcome::Ended(text)))
        }
        Served::ClientGone => (None, None),
    };
    if let Some(outcome) = outcome {
        record.finish(outcome);
    }
    if let Some(last) = last {
        // A client that is gone by now has no use for it.
        let _ = to_client.write_all(&last).await;
        let _ = to_client.shutdown().await;
    }
}

fn refusal(reason: Reason, text: String) -> Vec<u8> {
    frame(Kind::Refused, &Refused { reason, text }.encode())
}

fn exit(status: &ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit::Code(*code),
        ExitStatus::Signal { name, core_dumped, message } => {
            Exit::Signal { name: name.clone(), core_dumped: *core_dumped, message: message.clone() }
        }
    }
}

/// Sends output as far as the client's credit goes, and credit for input in between.
async fn send_output(
    output: &mut ProcessOutput,
    to_client: &mut (impl AsyncWrite + Unpin),
    allowed: &Semaphore,
    credits: &mut mpsc::Receiver<usize>,
    traffic: &Traffic,
) -> Served {
    let mut buffer = vec![0; CHUNK];
    loop {
        let ready = async {
            let ready = poll_fn(|cx| output.poll_ready(cx)).await;
            if matches!(ready, Ready::Stdout | Ready::Stderr) {
                // Closed never; the permit goes back at once and is taken below, when it is known how many are needed.
                let _ = allowed.acquire().await;
            }
            ready
        };
        let ready = tokio::select! {
            ready = ready => ready,
            Some(taken) = credits.recv() => {
                if to_client.write_all(&credit(taken)).await.is_err() {
                    return Served::ClientGone;
                }
                continue;
            }
        };
        let kind = match ready {
            Ready::Stdout => Kind::Stdout,
            Ready::Stderr => Kind::Stderr,
            Ready::Exit(status) => return Served::Exit(status),
            Ready::LinkLost(error) => return Served::LinkLost(format!("The session was lost: {error}.")),
        };
        let room = allowed.available_permits().min(CHUNK);
        let read = match output.try_read(&mut buffer[..room]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Served::LinkLost(format!("The session was lost: {error}.")),
        };
        if read == 0 {
            continue;
        }
        allowed.forget_permits(read);
        traffic.bytes_out.fetch_add(read as u64, Ordering::Relaxed);
        if to_client.write_all(&frame(kind, &buffer[..read])).await.is_err() {
            return Served::ClientGone;
        }
    }
}

/// Hands the client's input to the process and gives credit for what was taken. Does not return.
async fn feed_input(
    mut input: ProcessInput,
    mut from_client: DuplexStream,
    credits: mpsc::Sender<usize>,
    traffic: &Traffic,
) {
    let mut buffer = vec![0; CHUNK];
    let mut wanted = true;
    loop {
        let read = match from_client.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let mut rest = &buffer[..read];
        while wanted && !rest.is_empty() {
            match poll_fn(|cx| input.poll_write(cx, rest)).await {
                Ok(taken) => rest = &rest[taken..],
                // The process no longer reads; what still comes is thrown away, with credit, so that the client's end
                // of file and window changes get through.
                Err(_) => wanted = false,
            }
        }
        traffic.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
        if credits.send(read).await.is_err() {
            break;
        }
    }
    // A process that is gone has no use for an EOF.
    let _ = poll_fn(|cx| input.poll_shutdown(cx)).await;
    std::future::pending().await
}

/// Takes what the client sends until it is gone or breaks the protocol.
async fn read_client(
    mut from_client: impl AsyncRead + Unpin,
    stdin: DuplexStream,
    control: &ProcessControl,
    output_credit: &Semaphore,
) -> io::Result<()> {
    let mut stdin = Some(stdin);
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from_client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut input = &buffer[..read];
        while let Some(item) = decoder.next(&mut input).map_err(broken)? {
            match item {
                Item::Data { kind: Kind::Stdin, chunk, .. } => {
                    let Some(stdin) = &mut stdin else { return Err(broken("input after its end")) };
                    // The pipe holds as much as the client has credit for, so this never waits for an honest client.
                    let write = std::pin::pin!(stdin.write_all(chunk));
                    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                    match Future::poll(write, &mut context) {
                        std::task::Poll::Ready(result) => result?,
                        std::task::Poll::Pending => return Err(broken("more input than credit")),
                    }
                }
                Item::Data { .. } => return Err(broken("data of the wrong kind")),
                Item::Control { kind: Kind::Eof, .. } => stdin = None,
                Item::Control { kind: Kind::Credit, payload, .. } => {
                    let given = decode_u32(payload).map_err(broken)? as usize;
                    if given > WINDOW as usize || output_credit.available_permits() + given > WINDOW as usize
                    {
                        return Err(broken("more credit than was used"));
                    }
                    output_credit.add_permits(given);
                }
                Item::Control { kind: Kind::Resize, payload, .. } => {
                    let size = Size::decode(payload).map_err(broken)?;
                    let size = WindowSize {
                        cols: size.cols,
                        rows: size.rows,
                        xpixel: size.xpixel,
                        ypixel: size.ypixel,
                    };
                    // A process that has ended meanwhile needs no size.
                    let _ = control.resize(size);
                }
                Item::Control { kind: Kind::Signal, payload, .. } => {
                    let name = signal_name(payload).map_err(broken)?;
                    // As above.
                    let _ = control.signal(&name);
                }
                Item::Control { .. } => return Err(broken("a frame that clients do not send")),
            }
        }
    }
}

fn broken(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
