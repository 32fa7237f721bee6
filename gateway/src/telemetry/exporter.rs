//! Shows the metrics to Prometheus, on a listener of its own that no client reaches.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{Kind, METRICS, announce};
use super::process::Figures;

/// The version of Prometheus' text format that is written.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often samples are moved into their buckets, as between scrapes they would pile up, and the process is looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Why the metrics can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The address can't be listened on.
    #[error("METRICS_ADDR: can't listen on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The recorder can't be set up, or one was before.
    #[error("the metrics can't be set up: {0}")]
    Recorder(#[from] BuildError),
}

/// Listens on `address`, sets up this process's recorder and shows its metrics at `/metrics` until `stop`. Returns the
/// address it listens on. Where it is never called, recording costs next to nothing.
pub async fn start(
    address: SocketAddr,
    stop: CancellationToken,
) -> Result<SocketAddr, ExporterError> {
    let bind = |source| ExporterError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let handle = builder()?.install_recorder()?;
    announce();
    tokio::spawn(upkeep(handle.clone(), stop.clone()));
    tokio::spawn(async move {
        let serving = axum::serve(listener, router(handle));
        // What is under way is cut: a scrape that ends half-way is repeated, and nobody waits for Prometheus.
        tokio::select! {
            () = stop.cancelled() => {}
            outcome = serving => if let Err(error) = outcome {
                tracing::error!(%error, "the metrics are no longer shown");
            }
        }
    });
    Ok(bound)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let Kind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    Ok(builder)
}

fn router(handle: PrometheusHandle) -> Router {
    let show = move || {
        let text = handle.render();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    Router::new().route("/metrics", get(show))
}

async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut turn = tokio::time::interval(UPKEEP_INTERVAL);
    let mut figures = Figures::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turn.tick() => {
                figures.take();
                handle.run_upkeep();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn every_metric_is_shown_with_its_help() {
        let recorder = builder().unwrap().build_recorder();
        let router = router(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            announce();
            for metric in METRICS {
                match metric.kind {
                    Kind::Counter => metrics::counter!(metric.name).increment(1),
                    Kind::Gauge => metrics::gauge!(metric.name).set(1.0),
                    Kind::Histogram(_) => metrics::histogram!(metric.name).record(0.003),
                }
            }
        });

        let ask = |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request)
        };
        let answer = ask("/metrics").await.unwrap();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        for metric in METRICS {
            let (name, help) = (metric.name, metric.help);
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
            let kind = metric.kind.as_str();
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        }
        assert!(text.contains("chat_errors_total{code=\"RATE_LIMITED\"} 0"));
        assert!(text.contains("chat_message_latency_seconds_bucket{le=\"0.005\"} 1"));

        assert_eq!(ask("/").await.unwrap().status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_taken_port_is_told_by_the_settings_name() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = start(address, CancellationToken::new()).await.unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with(&format!("METRICS_ADDR: can't listen on {address}")));
    }
}
