//! `POST /api/v1/sandboxes/{name}/exec`: one command, and all that it said.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandgate_driver::NoProgress;
use sandgate_gateway::Gateway;
use sandgate_gateway::agent_forward::AgentRequest;
use sandgate_gateway::session::{self, Outcome, RunningSession, SessionRequest, Traffic, signal_number};
use sandgate_gateway::telemetry::Trace;
use sandgate_guest::{ExitStatus, GuestError, ProcessInput, Program, Ready};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use crate::api::{ExecEnd, ExecRequest, ExecResult, Output};
use crate::caller::Caller;
use crate::places::Places;
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// How long a command may run, if nobody says.
const USUAL_TIME: Duration = Duration::from_secs(60);
/// How long it may run at most.
const MOST_TIME: Duration = Duration::from_secs(3600);
/// Most that is kept of each of its outputs, in bytes. A command that says more is ended; the stream has no such limit.
const MOST_OUTPUT: usize = 8 << 20;
/// Read at once, in bytes.
const PIECE: usize = 64 << 10;
/// What the caller reads that finds no place.
const TOO_MANY: &str = "too many commands are run to their end by requests at the moment; try again later";

/// Runs one command to its end and answers with all that it said. It runs as by `ssh host command`: in the user's shell, or directly if
/// it is given as words.
#[utoipa::path(
    post, path = "/sandboxes/{name}/exec", tag = "sandboxes",
    params(("name" = String, Path)),
    request_body = ExecRequest,
    responses((status = 200, body = ExecResult), Refusals)
)]
pub(crate) async fn run(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<ExecResult>, Problem> {
    let asked: ExecRequest = parse(&body)?;
    let limit = asked.timeout_seconds.map_or(USUAL_TIME, Duration::from_secs);
    if limit.is_zero() || limit > MOST_TIME {
        let most = MOST_TIME.as_secs();
        return Err(unusable(format!("the time limit must be from 1 to {most} seconds")));
    }
    let stdin = match (asked.stdin, asked.stdin_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => {
            STANDARD.decode(text).map_err(|error| unusable(format!("stdin_base64 is not base64: {error}")))?
        }
        (None, None) => Vec::new(),
        (Some(_), Some(_)) => return Err(unusable("the input is given twice")),
    };
    let program = match (asked.command, asked.argv) {
        (Some(command), None) => Program::Command(command.into_bytes()),
        (None, Some(words)) if !words.is_empty() => {
            Program::Argv(words.into_iter().map(String::into_bytes).collect())
        }
        _ => return Err(unusable("give either a command or the words of one")),
    };
    let principal = caller.principal(&gateway, name)?;
    // Held until the answer is made: what it holds is what costs.
    let _place = Places::shared(gateway.one_shots.clone(), TOO_MANY).take()?;
    let connection = gateway.registry.connect(principal.clone());
    if let Some(reason) = gateway.access.revoked_meanwhile(&principal) {
        return Err(Problem::unauthorized(reason.text()));
    }
    let env = asked.env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
    let request = SessionRequest {
        program,
        pty: None,
        env,
        agent: AgentRequest::NotAsked,
        user: asked.user.map(String::into_bytes),
        peer: None,
        trace: Trace::default(),
    };
    let session = session::start(&gateway, &principal, request, &NoProgress).await?;
    let started_at = OffsetDateTime::now_utc();
    let began = Instant::now();
    let RunningSession { input, output, control, agent: _, mut record } = session;
    let mut said = Said { output, stdout: Vec::new(), stderr: Vec::new() };
    let (mut cut, mut killed) = (connection.end_signal(), record.end_signal());
    let traffic = record.traffic().clone();
    let feed = async {
        feed(input, &stdin, &traffic).await;
        std::future::pending::<End>().await
    };
    let end = tokio::select! {
        end = said.gather() => end,
        () = sleep_until(began + limit) => End::Ours(ExecEnd::TimedOut, "time limit".to_owned()),
        reason = cut.ended() => End::Ours(ExecEnd::Ended, reason.text().to_owned()),
        reason = killed.ended() => End::Ours(ExecEnd::Ended, reason.text().to_owned()),
        end = feed => end,
    };
    traffic.bytes_out.fetch_add((said.stdout.len() + said.stderr.len()) as u64, Ordering::Relaxed);
    let (end, status, detail) = match end {
        End::Exit(status) => {
            record.finish(Outcome::Exited(status.clone()));
            (ExecEnd::Exited, Some(status), None)
        }
        End::Lost(error) => {
            record.finish(Outcome::LinkLost);
            (ExecEnd::LinkLost, None, Some(error.to_string()))
        }
        End::Ours(end, text) => {
            control.hangup();
            record.finish(Outcome::Ended(text.clone()));
            (end, None, Some(text))
        }
    };
    let mut answer = ExecResult {
        session: record.id().to_owned(),
        end,
        exit_code: None,
        signal: None,
        core_dumped: false,
        detail,
        stdout: Output::of(said.stdout),
        stderr: Output::of(said.stderr),
        started_at,
        seconds: began.elapsed().as_secs_f64(),
    };
    match status {
        Some(ExitStatus::Code(code)) => answer.exit_code = Some(code),
        Some(ExitStatus::Signal { name, core_dumped, message }) => {
            answer.end = ExecEnd::Signaled;
            // As a shell has it.
            answer.exit_code = Some(128 + signal_number(&name));
            (answer.signal, answer.core_dumped) = (Some(name), core_dumped);
            answer.detail = Some(message).filter(|text| !text.is_empty());
        }
        None => {}
    }
    Ok(Json(answer))
}

fn unusable(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

async fn feed(mut input: ProcessInput, mut stdin: &[u8], traffic: &Traffic) {
    while !stdin.is_empty() {
        // A command that does not read its input is no error.
        let Ok(taken) = poll_fn(|cx| input.poll_write(cx, stdin)).await else { return };
        traffic.took([stdin], taken);
        stdin = stdin.get(taken..).unwrap_or_default();
    }
    let _ = input.shutdown().await;
}

/// How a command ended, as far as we saw.
enum End {
    Exit(ExitStatus),
    Lost(GuestError),
    Ours(ExecEnd, String),
}

/// What a command has said so far.
struct Said {
    output: sandgate_gateway::session::SessionOutput,
    /// Each at most [`MOST_OUTPUT`] bytes.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Said {
    async fn gather(&mut self) -> End {
        let mut piece = vec![0; PIECE];
        loop {
            let to = match poll_fn(|cx| self.output.poll_ready(cx)).await {
                Ready::Stdout => &mut self.stdout,
                Ready::Stderr => &mut self.stderr,
                Ready::Exit(status) => return End::Exit(status),
                Ready::LinkLost(error) => return End::Lost(error),
            };
            match self.output.try_read(&mut piece) {
                Ok(read) => {
                    let some = piece.get(..read).unwrap_or_default();
                    if to.len() + some.len() > MOST_OUTPUT {
                        let text = format!(
                            "more than {MOST_OUTPUT} bytes of output; use the stream for such commands"
                        );
                        return End::Ours(ExecEnd::OutputLimit, text);
                    }
                    to.extend_from_slice(some);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return End::Lost(GuestError::Io(error.to_string())),
            }
            // A command that floods must not keep a thread.
            tokio::task::consume_budget().await;
        }
    }
}
