//! The way of ended spans to the collector. It waits for nobody and nobody waits for it.
//!
//! Spans that have ended go into a bounded queue; a thread of the SDK's own takes them out in batches and posts them by HTTP. The requests
//! themselves run on the gateway's runtime. What finds the queue full, and what the collector does not take, is lost and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use parking_lot::Mutex;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use tokio::runtime::Handle;

use super::TelemetryError;
use super::config::TelemetryConfig;
use crate::metrics::{Counter, Page};

/// Spans that wait to be sent, of less than a kilobyte each. What comes beyond is dropped.
const QUEUE: usize = 2048;
/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const DELAY: Duration = Duration::from_secs(5);
/// For one request, and for a batch with all that is tried again.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For the connection alone.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes of an answer; a collector says at most how many spans it has refused.
const MAX_ANSWER: usize = 64 * 1024;
/// Between warnings, for as long as it goes on failing.
const QUIET: Duration = Duration::from_secs(300);

/// What takes ended spans and sends them to the configured endpoint.
pub(super) fn processor(
    config: &TelemetryConfig,
    health: &Arc<Health>,
) -> Result<impl SpanProcessor + use<>, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(config.url.as_str())
        .with_timeout(TIMEOUT)
        .with_http_client(Client::new(config, health)?)
        .build()
        .map_err(|error| TelemetryError(error.to_string()))?;
    Ok(batching(exporter, health))
}

/// What takes ended spans and hands them to `exporter` in batches, on a thread of its own.
pub(super) fn batching<E: SpanExporter + 'static>(
    exporter: E,
    health: &Arc<Health>,
) -> impl SpanProcessor + use<E> {
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let watched = Watched { exporter, health: health.clone() };
    let batches = BatchSpanProcessor::builder(watched).with_batch_config(batches).build();
    Bounded { next: batches, health: health.clone() }
}

/// How exporting goes.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Spans in the queue; at most [`QUEUE`].
    waiting: AtomicUsize,
    exported: Counter,
    lost: Counter,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Why the last request failed.
    cause: Option<String>,
    /// When that was last told.
    told: Option<Instant>,
    /// Told and not yet taken back.
    lasts: bool,
}

impl Health {
    /// Whether there is room for one more span; it is lost if not.
    fn enter(&self) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.lost.increment();
        false
    }

    fn exported(&self, count: usize) {
        self.exported.add(count as u64);
        let mut trouble = self.trouble.lock();
        if std::mem::take(&mut trouble.lasts) {
            tracing::info!(lost = self.lost.get(), "traces are exported again");
        }
    }

    fn failed(&self, count: usize, error: &dyn std::fmt::Display) {
        self.lost.add(count as u64);
        let mut trouble = self.trouble.lock();
        let cause = trouble.cause.take();
        if trouble.told.is_some_and(|told| told.elapsed() < QUIET) {
            return;
        }
        (trouble.told, trouble.lasts) = (Some(Instant::now()), true);
        let cause = cause.unwrap_or_else(|| error.to_string());
        tracing::warn!(error = cause, lost = self.lost.get(), "traces cannot be exported; sessions go on");
    }

    /// Writes its part of the page of metrics.
    pub(super) fn write(&self, page: &mut Page) {
        page.counters(
            "sandgate_trace_spans_total",
            "Spans of traces, by what became of them.",
            "result",
            &[("exported", self.exported.get()), ("lost", self.lost.get())],
        );
    }
}

/// Keeps the queue of the next processor within its bound, and counts what does not fit.
#[derive(Debug)]
struct Bounded<P> {
    next: P,
    health: Arc<Health>,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.health.enter() {
            self.next.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// Counts what is exported and what is not, and warns now and then.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    health: Arc<Health>,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.health.waiting.fetch_sub(count, Ordering::Relaxed);
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => self.health.exported(count),
            Err(error) => self.health.failed(count, error),
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Posts what the exporter has encoded.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    /// The exporter's thread has no runtime of its own.
    runtime: Handle,
    health: Arc<Health>,
}

impl Client {
    fn new(config: &TelemetryConfig, health: &Arc<Health>) -> Result<Client, TelemetryError> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT)
            // The headers are for the endpoint and nobody else.
            .redirect(reqwest::redirect::Policy::none())
            // The environment is not ours to read.
            .no_proxy()
            .user_agent(concat!("sandgate/", env!("CARGO_PKG_VERSION")));
        if config.url.scheme() == "http" {
            // Nothing to check there: a machine without certificates of authorities will do.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|error| TelemetryError(reason(&error)))?;
        let (url, headers) = (config.url.clone(), config.headers.clone());
        Ok(Client { http, url, headers, runtime: Handle::current(), health: health.clone() })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut headers = self.headers.clone();
        // Other headers and the address may come from variables of the environment, and are not used.
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, kind.clone());
        }
        let request = self.http.post(self.url.clone()).headers(headers).body(request.into_body());
        let answer = self.runtime.spawn(answer(request)).await?;
        answer.map_err(|error| {
            let cause = reason(&error);
            self.health.trouble.lock().cause = Some(cause.clone());
            cause.into()
        })
    }
}

/// Sends a request and reads the answer as far as it is of use.
async fn answer(request: reqwest::RequestBuilder) -> Result<Response<Bytes>, reqwest::Error> {
    let mut answer = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = MAX_ANSWER.saturating_sub(body.len()).min(chunk.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or_default());
        if room < chunk.len() {
            break;
        }
    }
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

/// The causes of an error, without the address.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the endpoint does not answer in time".to_owned();
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

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkError;

    #[test]
    fn the_queue_is_bounded_and_what_does_not_fit_is_counted() {
        let health = Health::default();
        assert_eq!((0..QUEUE + 3).filter(|_| health.enter()).count(), QUEUE);
        assert_eq!(health.lost.get(), 3);
        health.waiting.fetch_sub(BATCH, Ordering::Relaxed);
        assert!(health.enter());
    }

    #[test]
    fn failures_are_told_once_in_a_while() {
        let health = Health::default();
        let error = OTelSdkError::Timeout(TIMEOUT);
        health.failed(2, &error);
        let told = health.trouble.lock().told;
        assert!(told.is_some() && health.trouble.lock().lasts);
        health.failed(3, &error);
        assert_eq!(health.trouble.lock().told, told, "told again at once");
        health.exported(4);
        assert!(!health.trouble.lock().lasts);
        assert_eq!((health.lost.get(), health.exported.get()), (5, 4));
    }
}
