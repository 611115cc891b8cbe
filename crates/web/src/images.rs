//! `/api/v1/images`. Pulling answers with a stream of events, one JSON object a line; the last one is the outcome.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sandgate_driver::{Credentials, ImageError, ImageEvent, ImageProgress, ImageRef, StoredImage};
use sandgate_gateway::Gateway;
use sandgate_gateway::audit::{Actor, acting_as};
use sandgate_gateway::images::{PullRequest, RemoveError};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::api::{ImageView, ImportImage, PullEvent, PullImage};
use crate::problem::{Problem, parse};
use crate::schema::Refusals;

/// Events that wait for a client to read them. Where it is slow, counts of bytes are left out; the outcome is not.
const WAITING_EVENTS: usize = 1024;

/// Every image in the store.
#[utoipa::path(
    get, path = "/images", tag = "images",
    responses((status = 200, body = Vec<ImageView>), Refusals)
)]
pub(crate) async fn list(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<ImageView>>, Problem> {
    Ok(Json(gateway.images.list().await?.into_iter().map(view).collect()))
}

/// Imports an image from a file on the gateway's machine.
#[utoipa::path(
    post, path = "/images/import", tag = "images",
    request_body = ImportImage,
    responses((status = 201, body = ImageView), Refusals)
)]
pub(crate) async fn import(
    State(gateway): State<Arc<Gateway>>,
    body: Bytes,
) -> Result<(StatusCode, Json<ImageView>), Problem> {
    let asked: ImportImage = parse(&body)?;
    if !asked.source.is_absolute() {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the path of the file must be absolute"));
    }
    let name = asked.name.map(|name| name.parse::<ImageRef>()).transpose()?;
    Ok((StatusCode::CREATED, Json(view(gateway.images.import(&asked.source, name).await?))))
}

/// Pulls an image; the answer is a JSON object a line, the last of which is the outcome.
#[utoipa::path(
    post, path = "/images/pull", tag = "images",
    request_body = PullImage,
    responses((status = 200, body = String, content_type = "application/x-ndjson"), Refusals)
)]
pub(crate) async fn pull(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Result<Response, Problem> {
    let asked: PullImage = parse(&body)?;
    let login = asked.login.map(|login| Credentials { username: login.username, password: login.password });
    let request = PullRequest {
        name: asked.name.parse()?,
        platform: asked.platform.map(|platform| platform.parse()).transpose()?,
        credentials: login,
    };
    let (sender, mut receiver) = mpsc::channel::<PullEvent>(WAITING_EVENTS);
    let actor = Actor::current();
    tokio::spawn(acting_as(actor, async move {
        let progress = Events(sender.clone());
        let outcome = tokio::select! {
            outcome = gateway.images.pull(request, &progress) => outcome,
            // Nobody waits for it any more.
            () = sender.closed() => return,
        };
        let last = match outcome {
            Ok(image) => PullEvent::Pulled { image: view(image) },
            Err(error) => PullEvent::Failed { detail: error.to_string() },
        };
        // Fails only where the client has gone.
        let _ = sender.send(last).await;
    }));
    let lines = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|event| event.map(|event| line(&event)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveQuery {
    /// In the query, since it may hold slashes.
    name: String,
}

/// Removes an image.
#[utoipa::path(
    delete, path = "/images", tag = "images",
    params(("name" = String, Query)),
    responses((status = 204), Refusals)
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    gateway.images.remove(&query.name.parse()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn line(event: &PullEvent) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

struct Events(mpsc::Sender<PullEvent>);

impl ImageProgress for Events {
    fn event(&self, event: ImageEvent) {
        let _ = self.0.try_send(PullEvent::Progress(event));
    }
}

fn view(image: StoredImage) -> ImageView {
    ImageView {
        name: image.name.familiar(),
        digest: image.digest,
        size: image.size,
        layers: image.layers,
        platform: image.platform,
        added_at: OffsetDateTime::from(image.added_at),
    }
}

impl From<ImageError> for Problem {
    fn from(error: ImageError) -> Problem {
        let status = match &error {
            ImageError::NotFound(_) => StatusCode::NOT_FOUND,
            ImageError::Name { .. }
            | ImageError::Platform(_)
            | ImageError::Credentials(_)
            | ImageError::Image(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ImageError::Registry { .. } => StatusCode::BAD_GATEWAY,
            ImageError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error.to_string())
    }
}

impl From<RemoveError> for Problem {
    fn from(error: RemoveError) -> Problem {
        match error {
            RemoveError::InUse { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
            RemoveError::Store(error) => error.into(),
        }
    }
}
