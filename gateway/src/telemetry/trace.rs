//! Traces: spans over a message's way from the socket it came by to those that hear it, on whichever node, exported by OTLP
//! (OpenTelemetry). Off, as it is unless an endpoint is set, all of it comes to a look at a static. Spans name conversations,
//! people and positions by their numbers, and never what was said.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use metrics::counter;
use opentelemetry::propagation::TextMapPropagator;
pub use opentelemetry::trace::FutureExt;
use opentelemetry::trace::{
    SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;

use super::metrics as names;
use crate::config::TracingConfig;

/// What the endpoint's address goes on with, by OTLP's custom.
const PATH: &str = "/v1/traces";

/// How long the collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much of an answer is read: one says little more than that it was well.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How long a node that goes waits for its last spans to be sent.
const GOODBYE: Duration = Duration::from_secs(3);

/// The name of a trace's header, and of its field in what is injected.
const TRACEPARENT: &str = "traceparent";

/// Set once, where traces are exported.
static TRACING: OnceLock<Tracing> = OnceLock::new();

struct Tracing {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    propagator: TraceContextPropagator,
}

/// Begins to trace, and to export what is traced. Call it on the runtime, once. An error tells what is wrong with the
/// settings; a collector that is not there is none.
pub fn start(config: &TracingConfig) -> Result<(), String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Exporting::new()?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{PATH}", config.endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| error.to_string())?;
    let by_ratio = Sampler::TraceIdRatioBased(config.sampler.ratio);
    let sampler = if config.sampler.heeds_parent {
        Sampler::ParentBased(Box::new(by_ratio))
    } else {
        by_ratio
    };
    let resource = Resource::builder()
        .with_service_name(config.service.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build();
    let tracing = Tracing {
        tracer: provider.tracer("gateway"),
        provider,
        propagator: TraceContextPropagator::new(),
    };
    TRACING
        .set(tracing)
        .map_err(|_| "tracing was begun before".to_owned())
}

/// Sends what is left.
pub async fn finish() {
    if let Some(tracing) = TRACING.get() {
        let goodbye = || tracing.provider.shutdown_with_timeout(GOODBYE);
        // Whether they arrived is the collector's loss.
        let _ = tokio::task::spawn_blocking(goodbye).await;
    }
}

/// What a REST request is done in, where there are traces: a span, within the caller's where the request names it.
pub fn request(headers: &HeaderMap, method: &'static str, route: &str) -> Option<Context> {
    let tracing = TRACING.get()?;
    let parent = tracing
        .propagator
        .extract_with_context(&Context::new(), &HeaderExtractor(headers));
    let builder = SpanBuilder::from_name(format!("{method} {route}"))
        .with_kind(SpanKind::Server)
        .with_attributes([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.to_owned()),
        ]);
    let span = tracing.tracer.build_with_context(builder, &parent);
    Some(Context::new().with_span(span))
}

/// Ends a request's span.
pub fn answered(context: &Context, status: u16) {
    let span = context.span();
    span.set_attribute(KeyValue::new(
        "http.response.status_code",
        i64::from(status),
    ));
    if status >= 500 {
        span.set_status(Status::error(status.to_string()));
    }
    span.end();
}

/// A span; it ends when this is dropped. Nothing, where there are no traces, or this one is not sampled.
#[derive(Debug, Default)]
pub struct Trace(Option<Box<Context>>);

impl Trace {
    /// A span within what this task does just now, or the first of a trace of its own.
    pub fn begin(name: &'static str, attributes: &[(&'static str, i64)]) -> Self {
        TRACING.get().map_or_else(Self::default, |tracing| {
            Self::start(
                tracing,
                &Context::current(),
                builder(name, SpanKind::Internal, attributes),
            )
        })
    }

    /// A span within one of another node, by what that has sent.
    pub fn heard(
        traceparent: Option<&str>,
        name: &'static str,
        attributes: &[(&'static str, i64)],
    ) -> Self {
        let (Some(sent), Some(tracing)) = (traceparent, TRACING.get()) else {
            return Self::default();
        };
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), sent.to_owned())]);
        let parent = tracing
            .propagator
            .extract_with_context(&Context::new(), &carrier);
        if parent.span().span_context().is_valid() {
            Self::start(
                tracing,
                &parent,
                builder(name, SpanKind::Consumer, attributes),
            )
        } else {
            Self::default()
        }
    }

    /// A span within this one that begins now and is heard of elsewhere, by its `traceparent`.
    pub fn outgoing(&self, name: &'static str) -> Self {
        self.within(|| builder(name, SpanKind::Producer, &[]))
    }

    /// Something within this one that began then and is over now.
    pub fn stage(&self, name: &'static str, since: Instant, attributes: &[(&'static str, i64)]) {
        drop(self.within(|| {
            builder(name, SpanKind::Internal, attributes)
                .with_start_time(SystemTime::now() - since.elapsed())
        }));
    }

    /// What another node is to be told of this span (W3C Trace Context).
    pub fn traceparent(&self) -> Option<Box<str>> {
        let (context, tracing) = (self.0.as_deref()?, TRACING.get()?);
        let mut carrier = HashMap::new();
        tracing.propagator.inject_context(context, &mut carrier);
        carrier.remove(TRACEPARENT).map(String::into_boxed_str)
    }

    /// Whether there is a span.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// One more attribute.
    pub fn tell(&self, name: &'static str, value: impl FnOnce() -> i64) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value()));
        }
    }

    /// It came to nothing; `code` is the error's.
    pub fn fail(&self, code: &'static str) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(code));
        }
    }

    fn within(&self, builder: impl FnOnce() -> SpanBuilder) -> Self {
        match (&self.0, TRACING.get()) {
            (Some(context), Some(tracing)) => Self::start(tracing, context, builder()),
            _ => Self::default(),
        }
    }

    fn start(tracing: &Tracing, parent: &Context, builder: SpanBuilder) -> Self {
        let span = tracing.tracer.build_with_context(builder, parent);
        let context = Context::new().with_span(span);
        let is_sampled = context.span().span_context().is_sampled();
        Self(is_sampled.then(|| Box::new(context)))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

fn builder(name: &'static str, kind: SpanKind, attributes: &[(&'static str, i64)]) -> SpanBuilder {
    let attributes = attributes
        .iter()
        .map(|(name, value)| KeyValue::new(*name, *value));
    SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_attributes(attributes)
}

/// The way to the collector. Spans are batched on a thread of their own, which knows no runtime: the calls run on the node's.
#[derive(Debug)]
struct Exporting {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    /// Whether the last call failed: a collector that is away is told of once, not with every batch.
    is_failing: AtomicBool,
}

impl Exporting {
    fn new() -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| error.to_string())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            runtime: Handle::current(),
            is_failing: AtomicBool::new(false),
        })
    }

    fn note(&self, problem: Option<&str>) {
        let result = if problem.is_some() { "failed" } else { "ok" };
        counter!(names::TRACE_EXPORTS, "result" => result).increment(1);
        let was_failing = self.is_failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !was_failing => {
                tracing::warn!(
                    problem,
                    "traces can't be exported; what does not fit the queue is dropped"
                );
            }
            None if was_failing => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Exporting {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let call = self.client.request(request.map(Full::new));
        let call = async move {
            let (head, body) = call.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
            Ok::<_, HttpError>(Response::from_parts(head, body.to_bytes()))
        };
        let answer = self
            .runtime
            .spawn(async { tokio::time::timeout(PATIENCE, call).await })
            .await
            .map_err(HttpError::from)
            .and_then(|answer| answer.map_err(HttpError::from))
            .flatten();
        match &answer {
            Ok(answer) if answer.status().is_success() => self.note(None),
            Ok(answer) => self.note(Some(answer.status().as_str())),
            Err(error) => self.note(Some(&error.to_string())),
        }
        answer
    }
}
