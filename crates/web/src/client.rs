//! The client of the control API, for the command line.

use std::io;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::{ExecRequest, ProblemView};
use crate::control::socket_path;
use crate::frames::PROTOCOL;

/// Talks to the gateway of one data directory. Every call is one connection.
#[derive(Debug, Clone)]
pub struct Client {
    data_dir: PathBuf,
}

impl Client {
    /// A client for the gateway of `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Client {
        Client { data_dir: data_dir.to_owned() }
    }

    /// Gets something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        decode(&self.call(Method::GET, path, Bytes::new()).await?)
    }

    /// Gets plain text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.call(Method::GET, path, Bytes::new()).await?;
        String::from_utf8(body.to_vec()).map_err(|error| ClientError::Answer(error.to_string()))
    }

    /// Posts something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        decode(&self.call(Method::POST, path, encode(body)?).await?)
    }

    /// Deletes something; the answer is dropped.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    /// Begins an exec and gives the stream of [`crate::frames`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn exec(&self, sandbox: &str, request: &ExecRequest) -> Result<TokioIo<Upgraded>, ClientError> {
        let path = format!("/v1/sandboxes/{}/exec", segment(sandbox));
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "sandgate")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, PROTOCOL)
            .body(Full::new(encode(request)?))
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (status, body) = collect(response).await?;
            return Err(refused(status, &body));
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(ClientError::Http)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "sandgate")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let (status, body) = collect(self.send(request).await?).await?;
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<axum::http::Response<hyper::body::Incoming>, ClientError> {
        let path = socket_path(&self.data_dir);
        let stream = UnixStream::connect(&path).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { data_dir: self.data_dir.clone() }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotOwner { path: path.clone() },
            _ => ClientError::Connect { path: path.clone(), source },
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Http)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(ClientError::Http)
    }
}

/// A name as one segment of a path: everything but plain letters is percent-encoded, so no name can lead elsewhere.
#[must_use]
pub fn segment(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_@+".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

async fn collect(
    response: axum::http::Response<hyper::body::Incoming>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(ClientError::Http)?;
    Ok((status, body.to_bytes()))
}

fn refused(status: StatusCode, body: &Bytes) -> ClientError {
    match serde_json::from_slice::<ProblemView>(body) {
        Ok(problem) => ClientError::Refused(problem.detail),
        Err(_) => ClientError::Answer(format!("the gateway answered {status}")),
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| ClientError::Answer(error.to_string()))
}

fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Answer(error.to_string()))
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no gateway is running on {data_dir}; start one with `sandgate --data-dir {data_dir} serve` or `sandgate up`"
    )]
    NotRunning {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to another user; only the gateway's owner and root may control it")]
    NotOwner {
        /// The socket.
        path: PathBuf,
    },
    /// The socket.
    #[error("the gateway cannot be reached at {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The gateway said no, and why.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the connection to the gateway broke: {0}")]
    Http(hyper::Error),
    /// An answer of another kind than expected; perhaps another version is running.
    #[error("the gateway's answer cannot be understood: {0}")]
    Answer(String),
}
