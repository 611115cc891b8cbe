//! Traces for operators: how long each step from a connection to its first byte takes, sent by OTLP (`[telemetry]`).
//!
//! Without an endpoint no span is ever made, and what is here costs a look at an `Option`. Spans are made by hand, beside the counters of
//! [`crate::metrics`] and not from lines of the log: so nothing that a client or a guest has written gets into one, and no secret. A part of the
//! gateway that has a step to time holds a `Step`, which ends when it is dropped, and asks it for the steps within:
//!
//! ```text
//! ssh.connection            session (by other doors)
//! ├─ connect                ├─ wake …
//! ├─ auth
//! └─ session
//!    ├─ wake
//!    ├─ link
//!    └─ first_byte
//! ```

mod config;
mod export;
mod names;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanLimits, SpanProcessor};
use parking_lot::Mutex;
use sandgate_driver::Progress;
use sandgate_policy::{Credential, Principal};

use crate::metrics::Page;
use crate::session::{Peer, SessionInfo, Traffic};
use export::Health;

pub use config::{InvalidTelemetry, TelemetryConfig};
pub(crate) use names::guest_failure;

/// How long the last spans may take to go when the gateway ends.
const FLUSH: Duration = Duration::from_secs(3);

/// Makes spans, if the configuration names somebody to send them to.
#[derive(Debug)]
pub struct Telemetry(Option<Enabled>);

#[derive(Debug)]
struct Enabled {
    provider: SdkTracerProvider,
    /// Where traces begin.
    root: Place,
    health: Arc<Health>,
}

impl Telemetry {
    /// Begins to export, where it is configured. To be called within the runtime that outlives it.
    ///
    /// # Errors
    /// The client of HTTP cannot be made.
    pub fn start(config: Option<&TelemetryConfig>) -> Result<Telemetry, TelemetryError> {
        let Some(config) = config else { return Ok(Telemetry(None)) };
        let health = Arc::new(Health::default());
        let processor = export::processor(config, &health)?;
        tracing::info!(to = %config.url, ratio = config.sample_ratio, "traces are exported");
        Ok(Telemetry::with(config, processor, health))
    }

    fn with(
        config: &TelemetryConfig,
        processor: impl SpanProcessor + 'static,
        health: Arc<Health>,
    ) -> Telemetry {
        // All of a trace or nothing of it.
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            // Else from variables of the environment.
            .with_span_limits(SpanLimits::default())
            .with_resource(resource(config))
            .with_span_processor(processor)
            .build();
        let scope = InstrumentationScope::builder("sandgate").with_version(env!("CARGO_PKG_VERSION")).build();
        let root = Place { tracer: provider.tracer_with_scope(scope), parent: Context::new() };
        Telemetry(Some(Enabled { provider, root, health }))
    }

    /// A connection to the SSH listener.
    pub(crate) fn connection(&self, peer: &Peer) -> Step {
        let Some(enabled) = &self.0 else { return Step::default() };
        let mut step = enabled.root.step(names::CONNECTION, SpanKind::Server);
        step.note(names::PROTOCOL_NAME, "ssh");
        step.came_from(peer);
        step
    }

    /// A session in a sandbox, within the trace that it belongs to; one of its own for doors that have none.
    pub(crate) fn session(&self, trace: &Trace, peer: Option<&Peer>, sandbox: &str) -> Step {
        let mut step = match (&self.0, &trace.0) {
            (None, _) | (_, Belongs::NotTraced) => return Step::default(),
            (Some(_), Belongs::Under(place)) => place.step(names::SESSION, SpanKind::Internal),
            (Some(enabled), Belongs::Nowhere) => {
                let mut step = enabled.root.step(names::SESSION, SpanKind::Server);
                if let Some(peer) = peer {
                    step.came_from(peer);
                }
                step
            }
        };
        step.note(names::SANDBOX, sandbox.to_owned());
        step
    }

    /// Writes its part of the page of metrics.
    pub(crate) fn write(&self, page: &mut Page) {
        if let Some(enabled) = &self.0 {
            enabled.health.write(page);
        }
    }

    /// Sends what is left, for at most 3 s. Steps that end later are not exported.
    pub(crate) async fn close(&self) {
        let Some(enabled) = &self.0 else { return };
        let provider = enabled.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        // Whoever has not closed it ends at once: the SDK would wait for a collector that hangs. That it was closed already is no error.
        let _ = self.provider.shutdown_with_timeout(Duration::ZERO);
    }
}

/// Who sends the spans. Nothing of it comes from the environment.
fn resource(config: &TelemetryConfig) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_service_name(config.service_name.clone())
        .with_attributes([
            KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(names::HOST_NAME, host),
        ])
        .build()
}

/// Traces that cannot be exported.
#[derive(Debug, Clone, thiserror::Error)]
#[error("traces cannot be exported: {0}")]
pub struct TelemetryError(String);

/// The trace that something belongs to. The default is none: what begins there begins a trace.
#[derive(Debug, Clone, Default)]
pub struct Trace(Belongs);

#[derive(Debug, Clone, Default)]
enum Belongs {
    #[default]
    Nowhere,
    /// To a connection that is not traced; neither is anything in it.
    NotTraced,
    Under(Arc<Place>),
}

/// Where steps begin.
#[derive(Debug)]
struct Place {
    tracer: SdkTracer,
    /// Holds the span that they are part of. Never the thread's: tasks share threads.
    parent: Context,
}

impl Place {
    fn step(&self, name: &'static str, kind: SpanKind) -> Step {
        self.step_since(name, kind, SystemTime::now())
    }

    fn step_since(&self, name: &'static str, kind: SpanKind, began: SystemTime) -> Step {
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_start_time(began);
        let span = self.tracer.build_with_context(builder, &self.parent);
        if !span.is_recording() {
            return Step::default();
        }
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        let place = Arc::new(Place { tracer: self.tracer.clone(), parent });
        Step(Some(Box::new(Running { span, place, began })))
    }
}

/// A step that is being timed, or nothing where that is off. It ends when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Step(Option<Box<Running>>);

#[derive(Debug)]
struct Running {
    span: Span,
    /// Where the steps within it begin.
    place: Arc<Place>,
    began: SystemTime,
}

impl Step {
    /// For what belongs to this step.
    pub(crate) fn trace(&self) -> Trace {
        Trace(self.0.as_ref().map_or(Belongs::NotTraced, |running| Belongs::Under(running.place.clone())))
    }

    /// The key exchange of a connection.
    pub(crate) fn connect(&self) -> Step {
        self.within(names::CONNECT, SpanKind::Internal)
    }

    /// An attempt to log in.
    pub(crate) fn auth(&self, method: &'static str) -> Step {
        let mut step = self.within(names::AUTH, SpanKind::Internal);
        step.note(names::AUTH_METHOD, method);
        step
    }

    /// How the attempt has ended.
    pub(crate) fn decided(&mut self, outcome: &'static str) {
        self.note(names::AUTH_OUTCOME, outcome);
    }

    /// The connection has logged in.
    pub(crate) fn logged_in(&mut self, principal: &Principal) {
        let Some(running) = &mut self.0 else { return };
        let kind = match principal.credential {
            Credential::Token { .. } => "token",
            Credential::Key { .. } => "key",
            Credential::Certificate { .. } => "certificate",
            Credential::ApiKey { .. } => "api_key",
            Credential::Local => "local",
        };
        running.span.set_attribute(KeyValue::new(names::CREDENTIAL, kind));
        running.span.set_attribute(KeyValue::new(names::SANDBOX, principal.sandbox_name.clone()));
    }

    /// Waits for the sandbox: a step within this one begins when `progress` is first told why that takes time.
    pub(crate) fn waking<'a>(&'a self, progress: &'a dyn Progress) -> Waking<'a> {
        Waking { progress, session: self, wake: Mutex::default() }
    }

    /// The link to the guest agent.
    pub(crate) fn link(&self) -> Step {
        self.within(names::LINK, SpanKind::Client)
    }

    /// Waits for the first byte of output, since this step began.
    pub(crate) fn first_byte(&self) -> FirstByte {
        FirstByte(self.0.as_ref().map(|running| (running.place.clone(), running.began)))
    }

    /// The session runs.
    pub(crate) fn started(&mut self, info: &SessionInfo) {
        let Some(running) = &mut self.0 else { return };
        running.span.set_attributes([
            KeyValue::new(names::SESSION_ID, info.id.clone()),
            KeyValue::new(names::SESSION_KIND, info.kind.as_str()),
            KeyValue::new(names::SESSION_TERMINAL, info.pty),
        ]);
    }

    /// The session has ended.
    pub(crate) fn ended(&mut self, outcome: &'static str, code: Option<u32>, traffic: &Traffic) {
        let Some(running) = &mut self.0 else { return };
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        running.span.set_attributes([
            KeyValue::new(names::SESSION_OUTCOME, outcome),
            KeyValue::new(names::BYTES_IN, bytes(traffic.bytes_in.load(Ordering::Relaxed))),
            KeyValue::new(names::BYTES_OUT, bytes(traffic.bytes_out.load(Ordering::Relaxed))),
        ]);
        if let Some(code) = code {
            running.span.set_attribute(KeyValue::new(names::EXIT_CODE, i64::from(code)));
        }
    }

    /// It has failed; `kind` is a word for the kind of failure.
    pub(crate) fn failed(&mut self, kind: &'static str) {
        let Some(running) = &mut self.0 else { return };
        running.span.set_attribute(KeyValue::new(names::ERROR_TYPE, kind));
        running.span.set_status(Status::error(""));
    }

    fn within(&self, name: &'static str, kind: SpanKind) -> Step {
        self.0.as_ref().map_or_else(Step::default, |running| running.place.step(name, kind))
    }

    fn came_from(&mut self, peer: &Peer) {
        let Some(running) = &mut self.0 else { return };
        let address = peer.client.ip().to_canonical().to_string();
        running.span.set_attribute(KeyValue::new(names::CLIENT_ADDRESS, address));
        running.span.set_attribute(KeyValue::new(names::CLIENT_PORT, i64::from(peer.client.port())));
    }

    fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(running) = &mut self.0 {
            running.span.set_attribute(KeyValue::new(key, value));
        }
    }
}

/// Progress of a sandbox that is waited for. One that runs already tells nothing, and leaves no step.
pub(crate) struct Waking<'a> {
    progress: &'a dyn Progress,
    session: &'a Step,
    wake: Mutex<Option<Step>>,
}

impl Waking<'_> {
    /// The sandbox runs, or not.
    pub(crate) fn ended<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err()
            && let Some(mut wake) = self.wake.into_inner()
        {
            wake.failed("sandbox_not_started");
        }
        result
    }

    fn begin(&self) {
        self.wake.lock().get_or_insert_with(|| self.session.within(names::WAKE, SpanKind::Internal));
    }
}

impl Progress for Waking<'_> {
    fn step(&self, text: &str) {
        self.begin();
        self.progress.step(text);
    }

    fn warn(&self, text: &str) {
        self.begin();
        self.progress.warn(text);
    }
}

/// A step that exists only once it is over: a session that writes nothing has none.
#[derive(Debug, Default)]
pub(crate) struct FirstByte(Option<(Arc<Place>, SystemTime)>);

impl FirstByte {
    /// Something was written.
    pub(crate) fn came(&mut self) {
        if let Some((place, began)) = self.0.take() {
            drop(place.step_since(names::FIRST_BYTE, SpanKind::Internal, began));
        }
    }
}
