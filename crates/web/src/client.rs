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

use crate::api::{ProblemView, SftpRequest};
use crate::control::socket_path;
use crate::{link, sftp};

/// Longest line of a streamed answer, in bytes.
const MAX_LINE: usize = 64 << 10;

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

    /// Gets something as it is, a piece at a time.
    ///
    /// # Errors
    /// See [`ClientError`]; also an error of `on_piece`.
    pub async fn get_pieces(
        &self,
        path: &str,
        mut on_piece: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let response = self.send(json_request(Method::GET, path, Bytes::new())?).await?;
        if !response.status().is_success() {
            let (status, body) = collect(response).await?;
            return Err(refused(status, &body));
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(ClientError::Http)?.into_data() {
                on_piece(&data).map_err(ClientError::Write)?;
            }
        }
        Ok(())
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

    /// Posts something whose answer is a stream of JSON objects, one a line.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut on_line: impl FnMut(T),
    ) -> Result<(), ClientError> {
        let response = self.send(json_request(Method::POST, path, encode(body)?)?).await?;
        if !response.status().is_success() {
            let (status, body) = collect(response).await?;
            return Err(refused(status, &body));
        }
        let mut body = response.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(ClientError::Http)?.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                on_line(decode(&Bytes::from(line))?);
            }
            if pending.len() > MAX_LINE {
                return Err(ClientError::Answer("a line is too long".to_owned()));
            }
        }
        Ok(())
    }

    /// Deletes something; the answer is dropped.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    /// Makes a link: a stream on which the gateway serves one request as a sandbox's agent would. See [`crate::LinkDial`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn link(&self, sandbox: &str) -> Result<TokioIo<Upgraded>, ClientError> {
        let path = format!("/api/v1/sandboxes/{}/link", segment(sandbox));
        self.upgrade(path, link::PROTOCOL, &()).await.map(TokioIo::new)
    }

    /// Begins a session with a sandbox's SFTP server and gives the stream, which blocks and is for a thread of its own.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sftp(
        &self,
        sandbox: &str,
        request: &SftpRequest,
    ) -> Result<std::os::unix::net::UnixStream, ClientError> {
        let path = format!("/api/v1/sandboxes/{}/sftp", segment(sandbox));
        let upgraded = self.upgrade(path, sftp::PROTOCOL, request).await?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| ClientError::Answer("the connection is not ours".to_owned()))?;
        if !parts.read_buf.is_empty() {
            return Err(ClientError::Answer("a file server spoke before it was asked".to_owned()));
        }
        let stream = parts.io.into_inner().into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        stream.map_err(|source| ClientError::Connect { path: socket_path(&self.data_dir), source })
    }

    /// Posts something, after which the connection speaks another protocol.
    async fn upgrade(
        &self,
        path: String,
        protocol: &str,
        body: &impl Serialize,
    ) -> Result<Upgraded, ClientError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "sandgate")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, protocol)
            .body(Full::new(encode(body)?))
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (status, body) = collect(response).await?;
            return Err(refused(status, &body));
        }
        hyper::upgrade::on(response).await.map_err(ClientError::Http)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let (status, body) = collect(self.send(json_request(method, path, body)?).await?).await?;
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

fn json_request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "sandgate")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Answer(error.to_string()))
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
    /// What was got could not be written.
    #[error("it cannot be written: {0}")]
    Write(io::Error),
    /// An answer of another kind than expected; perhaps another version is running.
    #[error("the gateway's answer cannot be understood: {0}")]
    Answer(String),
}
