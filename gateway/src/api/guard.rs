//! What stands around every call: no more than a number of them is under way, each ends in time, a panic in it is an
//! answer, its failure gets its envelope, and it is counted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::Method;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::envelope;
use crate::config::AppEnv;
use crate::failure::Failure;
use crate::gate::{Full, Gate, Pass};
use crate::telemetry::metrics as names;
use crate::telemetry::trace::{self, FutureExt as _};

/// How long a request may take, from its head to its answer: as long as proxies commonly wait.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the guard goes by.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) mode: AppEnv,
    /// How long a request may take.
    pub(super) patience: Duration,
    /// The calls under way.
    pub(super) requests: Arc<Gate>,
}

/// What must be answered however much is under way: else an overloaded node would be taken for a dead one, and its load
/// would fall on the others.
const NEVER_REFUSED: [&str; 2] = ["/healthz", "/readyz"];

/// A call's place among those under way; an extension of its request. It is given up while the client is still sending,
/// or a few slow clients could hold all places.
#[derive(Clone)]
pub(super) struct Place(Arc<(Arc<Gate>, Mutex<Option<Pass>>)>);

impl Place {
    fn take(requests: &Arc<Gate>) -> Result<Self, Full> {
        let pass = requests.enter()?;
        Ok(Self(Arc::new((
            Arc::clone(requests),
            Mutex::new(Some(pass)),
        ))))
    }

    /// Waits for something that is the client's to do, without the place.
    pub(super) async fn lend<T>(&self, wait: impl Future<Output = T>) -> Result<T, Full> {
        let (requests, pass) = &*self.0;
        *pass.lock() = None;
        let done = wait.await;
        *pass.lock() = Some(requests.enter()?);
        Ok(done)
    }
}

/// Runs a call.
pub(super) async fn guard(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let is_probe = route
        .as_ref()
        .is_some_and(|route| NEVER_REFUSED.contains(&route.as_str()));
    let span = route
        .as_ref()
        .filter(|_| !is_probe)
        .and_then(|route| trace::request(request.headers(), method, route.as_str()));
    let place = if is_probe {
        Ok(None)
    } else {
        Place::take(&guard.requests).map(Some)
    };
    let response = match place {
        Ok(place) => {
            if let Some(place) = &place {
                request.extensions_mut().insert(place.clone());
            }
            // What a handler shares with others is behind locks that don't poison, and is changed in whole steps.
            let call = AssertUnwindSafe(next.run(request)).catch_unwind();
            let answer = match &span {
                Some(span) => timeout(guard.patience, call.with_context(span.clone())).await,
                None => timeout(guard.patience, call).await,
            };
            match answer {
                Ok(Ok(response)) => response,
                // The hook has written the panic down where it happened.
                Ok(Err(_)) => Failure::internal("a handler panicked").into_response(),
                Err(_) => Failure::unavailable("the request took too long").into_response(),
            }
        }
        Err(full) => Failure::from(full).into_response(),
    };
    let response = envelope::finish(response, guard.mode);
    let route = route
        .as_ref()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    if let Some(span) = &span {
        trace::answered(span, response.status().as_u16());
    }
    let status = response.status().as_u16().to_string();
    counter!(names::HTTP_REQUESTS, "method" => method, "route" => route.clone(), "status" => status).increment(1);
    histogram!(names::HTTP_DURATION, "method" => method, "route" => route)
        .record(begun.elapsed().as_secs_f64());
    response
}

/// A request may bring any word as its method; a label must not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http::StatusCode;
    use http::header::RETRY_AFTER;
    use tower::ServiceExt;

    use super::*;

    async fn answer(path: &str) -> (StatusCode, bool, serde_json::Value) {
        let guarded = Guard {
            mode: AppEnv::Production,
            patience: Duration::from_millis(20),
            requests: Arc::new(Gate::new("requests", 1)),
        };
        let router = Router::new()
            .route(
                "/panics",
                get(async || -> StatusCode { panic!("on purpose") }),
            )
            .route(
                "/hangs",
                get(async || std::future::pending::<StatusCode>().await),
            )
            .layer(from_fn_with_state(guarded, guard));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let retry = response.headers().contains_key(RETRY_AFTER);
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let (status, _, body) = answer("/panics").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["error"]["code"], "INTERNAL_ERROR");
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_is_ended() {
        let (status, retry, body) = answer("/hangs").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(retry);
        assert_eq!(body["success"], false);
        assert_eq!(body["error"]["code"], "SERVICE_UNAVAILABLE");
    }

    #[tokio::test]
    async fn an_unknown_method_gets_an_envelope() {
        let (status, _, body) = answer("/nothing").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(body["error"]["code"], "NOT_FOUND");
    }
}
