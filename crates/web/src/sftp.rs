//! `POST /api/v1/sandboxes/{name}/sftp`: a session with the agent's SFTP server over an upgraded connection.
//!
//! After the upgrade the stream is SFTP and nothing else, in both directions. There is no place in it for a reason: a session that is
//! ended from our side ends with the stream, and the reason is in the session's record.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use hyper_util::rt::TokioIo;
use sandgate_driver::NoProgress;
use sandgate_gateway::Gateway;
use sandgate_gateway::agent_forward::AgentRequest;
use sandgate_gateway::session::{
    self, ConnectionGuard, Outcome, RunningSession, SessionOutput, SessionRequest, Traffic,
};
use sandgate_gateway::telemetry::Trace;
use sandgate_guest::{ExitStatus, FileProtocol, Files, ProcessInput, Program, Ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::sleep;

use crate::api::SftpRequest;
use crate::caller::Caller;
use crate::problem::{Problem, parse};
use crate::upgrade;

/// The name in the `Upgrade` header.
pub(crate) const PROTOCOL: &str = "sandgate-sftp";

/// Longest request body, in bytes: a user name as a list of numbers.
const MAX_BODY: usize = 64 * 1024;
/// Bytes moved at once: what the pipes of a file server hold.
const PIECE: usize = 256 * 1024;
/// Complaints of a file server in the log, for each session: whoever has taken over the sandbox could fill it.
const MAX_COMPLAINTS: u32 = 16;
/// Bytes of one of them.
const MAX_COMPLAINT: usize = 1024;
/// How long a file server may take to close its files after its client has gone.
const LAST_WRITES: Duration = Duration::from_secs(5);

pub(crate) async fn start(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    mut request: Request,
) -> Result<Response, Problem> {
    upgrade::check(request.headers(), PROTOCOL)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let asked: SftpRequest = parse(&body)?;
    let principal = caller.principal(&gateway, name)?;
    let connection = gateway.registry.connect(principal.clone());
    let request = SessionRequest {
        program: Program::Files(Files { protocol: FileProtocol::Sftp, root: None, read_only: false }),
        pty: None,
        env: Vec::new(),
        agent: AgentRequest::NotAsked,
        user: asked.user,
        peer: None,
        trace: Trace::default(),
    };
    let session = session::start(&gateway, &principal, request, &NoProgress).await?;
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => serve(session, connection, TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "the client of a file server went away before it began"),
        }
    });
    Ok(upgrade::switching(PROTOCOL))
}

/// How the serving of a session ended.
enum Served {
    Exit(ExitStatus),
    LinkLost,
    Ended(String),
    ClientGone,
}

async fn serve<S>(session: RunningSession, connection: ConnectionGuard, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let RunningSession { input, mut output, control, mut record, agent: _ } = session;
    let (from_client, to_client) = tokio::io::split(stream);
    let traffic = record.traffic().clone();
    let (mut killed, mut cut) = (record.end_signal(), connection.end_signal());

    let served = tokio::select! {
        served = send_output(&mut output, to_client, &traffic) => served,
        () = take_input(input, from_client, &traffic) => Served::ClientGone,
        reason = killed.ended() => Served::Ended(reason.text().to_owned()),
        reason = cut.ended() => Served::Ended(reason.text().to_owned()),
    };
    match served {
        Served::Exit(status) => record.finish(Outcome::Exited(status)),
        Served::LinkLost => record.finish(Outcome::LinkLost),
        Served::Ended(text) => {
            // At once; otherwise the file server may finish what it has been asked.
            control.hangup();
            record.finish(Outcome::Ended(text));
        }
        Served::ClientGone => {}
    }
}

/// Sends replies until the file server has ended.
async fn send_output(
    output: &mut SessionOutput,
    mut to_client: impl AsyncWrite + Unpin,
    traffic: &Traffic,
) -> Served {
    let mut buffer = vec![0; PIECE];
    let mut complaints = 0;
    loop {
        let ready = poll_fn(|cx| output.poll_ready(cx)).await;
        match ready {
            Ready::Stdout | Ready::Stderr => {}
            Ready::Exit(status) => return Served::Exit(status),
            Ready::LinkLost(_) => return Served::LinkLost,
        }
        let read = match output.try_read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Served::LinkLost,
        };
        if matches!(ready, Ready::Stderr) {
            // The raw stream has no place for a complaint, such as that the home directory is missing.
            let said = &buffer[..read.min(MAX_COMPLAINT)];
            if complaints < MAX_COMPLAINTS {
                tracing::info!(said = %String::from_utf8_lossy(said).escape_debug(), "from a file server");
            }
            complaints = complaints.saturating_add(1);
            continue;
        }
        traffic.bytes_out.fetch_add(read as u64, Ordering::Relaxed);
        if to_client.write_all(&buffer[..read]).await.is_err() {
            return Served::ClientGone;
        }
    }
}

/// Hands requests to the file server. Returns when the client has gone and the file server should have ended by itself.
async fn take_input(mut input: ProcessInput, mut from_client: impl AsyncRead + Unpin, traffic: &Traffic) {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = match from_client.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        traffic.took([&buffer[..read]], read);
        if input.write_all(&buffer[..read]).await.is_err() {
            // It takes no more: its exit is on the way.
            break;
        }
    }
    // As above.
    let _ = input.shutdown().await;
    sleep(LAST_WRITES).await;
}
