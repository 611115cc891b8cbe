//! A registry, as far as pulling needs it (OCI distribution specification, "Pull"; Docker's token authentication).
//!
//! `oci-client` was looked at first. It reads manifests and token answers to their end, however long they are, and gives no way to bound
//! that; a gateway must not be at a registry's mercy. So this uses what it uses below: `reqwest` with rustls and aws-lc-rs, and
//! `oci-spec` for names. Everything that comes is bounded, and waits have deadlines.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::name::is_loopback;
use super::store::MAX_DOCUMENT;
use super::{Credentials, ImageError, ImageRef};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(15);

/// How long a small answer may take as a whole: a manifest, a token.
const SMALL: Duration = Duration::from_secs(60);

/// Longest answer of a token server, in bytes. Tokens are sent back in a header, so this is generous.
const MAX_TOKEN: usize = 64 << 10;

/// Redirections of one request; registries send blobs to a storage server by one.
const MAX_REDIRECTS: usize = 5;

/// What we can make an image of.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

/// One repository of one registry.
pub(super) struct Registry {
    http: reqwest::Client,
    /// `https://host:port/v2/repository/`.
    base: Url,
    /// The registry's name, for messages.
    name: String,
    scope: String,
    credentials: Option<Credentials>,
    /// The `Authorization` that was accepted last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    pub(super) fn new(
        image: &ImageRef,
        insecure: &[String],
        credentials: Option<Credentials>,
        stall: Duration,
    ) -> Result<Self, ImageError> {
        let address = image.address();
        let plain = is_loopback(address)
            || insecure.iter().any(|known| known == address || known == image.registry());
        let scheme = if plain { Scheme::Http } else { Scheme::Https };
        let start = if plain { "http" } else { "https" };
        let base = format!("{start}://{address}/v2/{}/", image.repository());
        let fail = |reason: String| ImageError::Registry { registry: image.registry().to_owned(), reason };
        let base = Url::parse(&base).map_err(|error| fail(error.to_string()))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(stall)
            .redirect(redirects(scheme))
            // The environment is not ours to read.
            .no_proxy()
            .user_agent(concat!("sandgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| fail(reason(&error)))?;
        Ok(Self {
            http,
            base,
            name: image.registry().to_owned(),
            scope: format!("repository:{}:pull", image.repository()),
            credentials,
            authorization: Mutex::new(None),
        })
    }

    /// A manifest or index by tag or digest: its bytes and media type. The caller checks the digest.
    pub(super) async fn manifest(&self, wanted: &str) -> Result<(Vec<u8>, String), ImageError> {
        let work = async {
            let response = self.get(&format!("manifests/{wanted}"), MANIFESTS).await?;
            let kind = header(response.headers(), CONTENT_TYPE.as_str());
            let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
            Ok((self.small(response, limit).await?, kind))
        };
        tokio::time::timeout(SMALL, work).await.map_err(|_| self.fail("it does not answer in time"))?
    }

    /// Begins a blob.
    pub(super) async fn blob(&self, digest: &str) -> Result<Response, ImageError> {
        let path = format!("blobs/{digest}");
        let work = self.get(&path, "*/*");
        tokio::time::timeout(SMALL, work).await.map_err(|_| self.fail("it does not answer in time"))?
    }

    pub(super) fn fail(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Registry { registry: self.name.clone(), reason: reason.into() }
    }

    pub(super) fn broke(&self, error: &reqwest::Error) -> ImageError {
        self.fail(reason(error))
    }

    async fn get(&self, path: &str, accept: &'static str) -> Result<Response, ImageError> {
        let url = self.base.join(path).map_err(|error| self.fail(error.to_string()))?;
        let sent = self.authorization.lock().await.clone();
        let mut response = self.send(&url, accept, sent.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges: Vec<String> = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect();
            let mut current = self.authorization.lock().await;
            // Another layer's request may have got a new token meanwhile.
            if *current == sent {
                *current = Some(self.authorize(&challenges).await?);
            }
            let fresh = current.clone();
            drop(current);
            response = self.send(&url, accept, fresh.as_ref()).await?;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.fail(match &self.credentials {
                Some(credentials) => {
                    format!("it refuses the user {}, or the image does not exist", credentials.username)
                }
                None => "it asks for a login, or the image does not exist; see --auth-file".to_owned(),
            })),
            StatusCode::NOT_FOUND => Err(self.fail("it does not have this image")),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(self.fail("it has had too many requests from here; try later or log in"))
            }
            status => Err(self.fail(format!("it answers {status}"))),
        }
    }

    async fn send(
        &self,
        url: &Url,
        accept: &'static str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, ImageError> {
        let mut request = self.http.get(url.clone()).header(ACCEPT, accept);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        request.send().await.map_err(|error| self.broke(&error))
    }

    /// Finds out what the registry wants to be told.
    async fn authorize(&self, challenges: &[String]) -> Result<HeaderValue, ImageError> {
        let parsed: Vec<_> =
            challenges.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let text = match parsed.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer")) {
            Some(bearer) => {
                let parameter = |name: &str| {
                    bearer
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.to_unescaped())
                };
                let realm =
                    parameter("realm").ok_or_else(|| self.fail("it does not say where to get a token"))?;
                format!("Bearer {}", self.token(&realm, parameter("service").as_deref()).await?)
            }
            None if parsed.iter().any(|challenge| challenge.scheme.eq_ignore_ascii_case("basic")) => {
                match &self.credentials {
                    Some(credentials) => credentials.basic(),
                    None => return Err(self.fail("it asks for a login; see --auth-file")),
                }
            }
            None => return Err(self.fail("it asks for a login of a kind that is not known here")),
        };
        let mut value =
            HeaderValue::try_from(text).map_err(|_| self.fail("the login cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Asks the registry's token server, with our name and password if there are some.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, ImageError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            access_token: Option<String>,
        }
        let mut url =
            Url::parse(realm).map_err(|_| self.fail("the address of its token server is malformed"))?;
        if url.scheme() != "https" && self.base.scheme() == "https" {
            return Err(self.fail("its token server is not reached by https"));
        }
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &self.scope);
        let mut request = self.http.get(url);
        if let Some(credentials) = &self.credentials {
            let mut value = HeaderValue::try_from(credentials.basic())
                .map_err(|_| self.fail("the login cannot be sent in a header"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(|error| self.broke(&error))?;
        if !response.status().is_success() {
            return Err(self.fail(format!("its token server refuses us ({})", response.status())));
        }
        let bytes = self.small(response, MAX_TOKEN).await?;
        // The parser's words could hold a piece of the token.
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|_| self.fail("its token server's answer is malformed"))?;
        answer.token.or(answer.access_token).ok_or_else(|| self.fail("its token server gave no token"))
    }

    async fn small(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broke(&error))? {
            if bytes.len() + chunk.len() > limit {
                return Err(self.fail(format!("an answer is longer than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// A few, and never from https to something that anybody on the way can read. reqwest drops the login when the host changes.
fn redirects(scheme: Scheme) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("it redirects without end")
        } else if scheme == Scheme::Https && attempt.url().scheme() != "https" {
            attempt.error("it redirects from https to http")
        } else {
            attempt.follow()
        }
    })
}

fn header(headers: &HeaderMap, name: &str) -> String {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// The causes of an error without its address, which may hold a signature that opens a blob.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it has fallen silent".to_owned();
    }
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text.chars().take(300).collect() }
}
