//! `gateway health`: asks the node on this machine whether it is ready. For container and load balancer checks, where
//! there is no curl.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::Config;

/// How long the whole question may take. A node that is slower to say so is not ready.
const LIMIT: Duration = Duration::from_secs(3);

/// Why the node is not taken for ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nobody answers there, or not in HTTP.
    #[error("no answer from {0}: {1}")]
    NoAnswer(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answers, and not that it is ready.
    #[error("the node at {0} is not ready: {1}")]
    NotReady(String, StatusCode),
}

/// Succeeds if the node that these settings describe is ready. Takes 3 s at most.
pub async fn health(config: &Config) -> Result<(), HealthError> {
    let (host, port) = config.local_address();
    let place = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let status = tokio::time::timeout(LIMIT, ask(&host, port, &place))
        .await
        .unwrap_or_else(|late| Err(late.into()))
        .map_err(|error| HealthError::NoAnswer(place.clone(), error))?;
    if status.is_success() {
        Ok(())
    } else {
        Err(HealthError::NotReady(place, status))
    }
}

async fn ask(
    host: &str,
    port: u16,
    place: &str,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz")
        .header(header::HOST, place)
        .body(Empty::<Bytes>::new())?;
    let answer = async { Ok(sender.send_request(request).await?.status()) };
    // The connection does the reading and writing while the answer is waited for, and ends with this call.
    tokio::select! {
        status = answer => status,
        outcome = connection => {
            outcome?;
            Err("the connection ended before an answer came".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    fn config(port: u16) -> Config {
        let values = BTreeMap::from([("PORT".to_owned(), port.to_string())]);
        Config::from_map(&values).unwrap()
    }

    async fn node(status: StatusCode) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/readyz", get(move || async move { status }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    #[tokio::test]
    async fn a_ready_node_is_healthy() {
        health(&config(node(StatusCode::OK).await)).await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_is_not_ready_is_told_by_its_status() {
        let port = node(StatusCode::SERVICE_UNAVAILABLE).await;
        let error = health(&config(port)).await.unwrap_err();
        assert!(matches!(
            error,
            HealthError::NotReady(_, StatusCode::SERVICE_UNAVAILABLE)
        ));
    }

    #[tokio::test]
    async fn nobody_there_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = health(&config(port)).await.unwrap_err();
        assert!(matches!(error, HealthError::NoAnswer(..)));
        assert!(error.to_string().contains(&port.to_string()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = health(&config(port)).await.unwrap_err();
        assert!(matches!(error, HealthError::NoAnswer(..)));
        drop(listener);
    }
}
