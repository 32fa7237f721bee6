//! Accepts connections and speaks HTTP/1.1 on them, with the limits that keep a slow or silent client from holding
//! anything for long. What is served is the router's business; a WebSocket leaves this file with its upgrade.

mod http_stream;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub use http_stream::HttpStream;

/// How long a request's head may take to arrive, and how long a kept-alive connection may be silent before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a request's head: tokens are long, but not this long. Also the most that is read of a body at once.
const MAX_BUFFER: usize = 32 << 10;

/// How long what was sent may go untaken before the connection is given up: by a client that never reads its answer, or
/// by one whose cable was pulled. Longer than a heartbeat's round with the usual settings, which ends sockets earlier.
const UNTAKEN: Duration = Duration::from_secs(60);

/// How long accepting pauses where the system has no more sockets to give.
const OUT_OF_SOCKETS: Duration = Duration::from_millis(100);

/// How many connections the kernel may hold for us: a storm of clients that come back overflows the usual 128 or 1,024.
const BACKLOG: u32 = 4096;

/// Listens on the first of the host's addresses that can be listened on.
pub async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart must not wait until the old node's connections are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `stop`, then lets the requests under way finish. Every request bears the peer's address as
/// `ConnectInfo<SocketAddr>`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve_connection(stream, peer, router.clone(), stop.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(OUT_OF_SOCKETS).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    prepare(&stream);
    let (stream, hands_over) = HttpStream::new(stream);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let (router, hands_over) = (router.clone(), hands_over.clone());
        async move {
            let response = router.oneshot(request.map(Body::new)).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                hands_over.set();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // The client's fault or the network's: nothing is wrong here.
        tracing::debug!(%error, "connection ended early");
    }
}

/// What can't be set is done without.
fn prepare(stream: &TcpStream) {
    // Small frames should not wait for each other.
    let _ = stream.set_nodelay(true);
    // HTTP has no timeout for writing: an answer that nobody takes would hold its connection for ever.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN));
}

/// Whether the client of one connection went away, and nothing else is wrong.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_whose_client_takes_nothing_is_given_up() {
        let listener = bind("127.0.0.1", 0).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.expect("a connection");
        prepare(&stream);
        let given_up = SockRef::from(&stream).tcp_user_timeout();
        assert_eq!(given_up.expect("an option of Linux"), Some(UNTAKEN));
        assert!(stream.nodelay().expect("an option of TCP"));
        drop(client);
    }

    /// A write is what a client that comes in costs most: who takes the connection over writes the end of the handshake, too.
    #[tokio::test]
    async fn the_end_of_a_handshake_is_left_to_who_takes_over() {
        let (sender, mut handed_over) = tokio::sync::mpsc::channel(1);
        let upgrade = async move |mut request: axum::extract::Request| {
            let coming = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let upgraded = coming.await.expect("an upgrade");
                let parts = upgraded.downcast::<TokioIo<HttpStream>>();
                let stream = parts.expect("the listener's own").io.into_inner();
                sender.send(stream.into_parts()).await.expect("a listener");
            });
            StatusCode::SWITCHING_PROTOCOLS
        };
        let router = Router::new()
            .route("/", axum::routing::get(upgrade))
            .route("/plain", axum::routing::get(async || "answered"));
        let listener = bind("127.0.0.1", 0).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(serve(listener, router, CancellationToken::new()));
        let mut client = TcpStream::connect(address).await.expect("a listener");
        // An answer before it on the same connection goes out by itself.
        let plain = b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(plain).await.expect("a connection");
        let mut answer = [0; 1024];
        let read = client.read(&mut answer).await.expect("an answer");
        assert!(answer[..read].ends_with(b"answered"));
        let ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        client.write_all(ask).await.expect("a connection");
        let (tcp, opening) = handed_over.recv().await.expect("a connection");
        assert!(opening.starts_with(b"HTTP/1.1 101 ") && opening.ends_with(b"\r\n\r\n"));
        drop(tcp);
        let read = client.read(&mut answer).await.expect("its end");
        assert_eq!(read, 0, "it was written as well");
    }
}
