//! `/api/v1/recordings`.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use sandgate_gateway::Gateway;
use sandgate_gateway::recording::RecordingError;
use sandgate_record::write_v2;
use sandgate_store::{RecordingRow, RecordingsQuery};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use crate::api::{RecordingView, RecordingsPage, Verified};
use crate::problem::Problem;
use crate::schema::Refusals;

/// Recordings on one page, at most.
const MOST: u32 = 1000;
/// Those where nothing is said.
const USUAL: u32 = 100;
/// Bytes of a file that are read at once.
const PIECE: usize = 64 * 1024;
/// Pieces of a conversion that wait for the client.
const PIECES: usize = 4;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only those of the sandbox with this name.
    sandbox: Option<String>,
    /// So many at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only those before the one with this identifier.
    before: Option<String>,
}

/// Recordings, the newest first.
#[utoipa::path(
    get, path = "/recordings", tag = "recordings",
    params(ListQuery),
    responses((status = 200, body = RecordingsPage), Refusals)
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<RecordingsPage>, Problem> {
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("the limit must be from 1 to {MOST}")));
    }
    let query = RecordingsQuery { sandbox: query.sandbox, before: query.before, limit };
    let rows = gateway.recordings.list(&query).await?;
    let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = rows.last().filter(|_| full).map(|row| row.id.clone());
    Ok(Json(RecordingsPage { recordings: rows.into_iter().map(view).collect(), next }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DownloadQuery {
    /// `v3` as it was written, or `v2`.
    #[param(pattern = "^v[23]$")]
    format: Option<String>,
}

/// The recording itself: an asciicast for a terminal, lines of JSON for all else.
#[utoipa::path(
    get, path = "/recordings/{id}", tag = "recordings",
    params(("id" = String, Path), DownloadQuery),
    responses(
        (status = 200, body = String, content_type = "application/x-asciicast"),
        Refusals,
    )
)]
pub(crate) async fn download(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Query(query): Query<DownloadQuery>,
) -> Result<Response, Problem> {
    let (row, path) = gateway.recordings.find(&id).await?;
    let is_cast = row.format == "asciicast-v3";
    let body = match query.format.as_deref() {
        None => as_written(path).await?,
        Some("v3") if is_cast => as_written(path).await?,
        Some("v2") if is_cast => converted(path).await?,
        Some("v2" | "v3") => {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "only a terminal has that format"));
        }
        Some(_) => return Err(Problem::new(StatusCode::BAD_REQUEST, "the format is v2 or v3")),
    };
    let kind = if is_cast { "application/x-asciicast" } else { "application/jsonl" };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Checks the chain of hashes of a recording.
#[utoipa::path(
    post, path = "/recordings/{id}/verify", tag = "recordings",
    params(("id" = String, Path)),
    responses((status = 200, body = Verified), Refusals)
)]
pub(crate) async fn verify(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<Json<Verified>, Problem> {
    let verdict = gateway.recordings.verify(&id).await?;
    Ok(Json(Verified { valid: verdict.is_valid(), detail: verdict.to_string() }))
}

/// Removes a recording.
#[utoipa::path(
    delete, path = "/recordings/{id}", tag = "recordings",
    params(("id" = String, Path)),
    responses((status = 204), Refusals)
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    gateway.recordings.remove(&id).await?;
    gateway.audit.owner_did("recording.remove", None, id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The file, a piece at a time.
async fn as_written(path: PathBuf) -> Result<Body, Problem> {
    let file = tokio::fs::File::open(path).await.map_err(RecordingError::File)?;
    let pieces = stream::try_unfold(file, async |mut file| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), file)))
    });
    Ok(Body::from_stream(pieces))
}

/// Version 2 of it, made while it is sent.
async fn converted(path: PathBuf) -> Result<Body, Problem> {
    let file = tokio::task::spawn_blocking(|| File::open(path)).await;
    let file = file.map_err(|_| RecordingError::BrokenOff)?.map_err(RecordingError::File)?;
    let (pieces, sent) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let to = std::io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        if let Err(error) = write_v2(BufReader::new(file), to) {
            // The connection ends without its end: the client sees that something is missing.
            let _ = pieces.blocking_send(Err(std::io::Error::other(error.to_string())));
        }
    });
    Ok(Body::from_stream(stream::unfold(sent, async |mut sent| sent.recv().await.map(|piece| (piece, sent)))))
}

struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Pieces {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(buf)));
        sent.map(|()| buf.len()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn view(row: RecordingRow) -> RecordingView {
    let end = row.finished_at.unwrap_or_else(OffsetDateTime::now_utc);
    RecordingView {
        id: row.id,
        sandbox: row.sandbox_name,
        session: row.session_id,
        kind: row.kind,
        started_at: row.started_at,
        seconds: (end - row.started_at).as_seconds_f64().max(0.0),
        live: row.finished_at.is_none(),
        bytes: row.written.bytes,
        complete: row.written.complete,
        format: row.format,
    }
}
