//! Where connections come from: an address has 28,000 ports for connections to one server, and each stays taken for a
//! minute after its end, so they are spread over the addresses of the loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Below the range that Linux takes for outgoing connections (32768 and up): a port there that somebody has bound, on
/// whatever address and for a minute after its end, is taken from every other program of the machine.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// How many ports are tried before it is given up.
const TRIES: usize = 1_000;

/// Gives each connection of this process an address and port of its own.
#[derive(Debug)]
pub(super) struct Sources {
    /// Where this process began: another place than others, so that two generators, or one right after another, rarely
    /// meet.
    first: u32,
}

/// How many were taken by all engines of this process: what one has closed is not free for the next.
static TAKEN: AtomicU32 = AtomicU32::new(0);

impl Sources {
    pub(super) fn new() -> Self {
        Self {
            first: std::process::id().wrapping_mul(2_654_435_761),
        }
    }

    /// Begins to connect. A server elsewhere is reached from whatever address the system takes.
    pub(super) fn connect(&self, server: SocketAddr) -> io::Result<TcpStream> {
        let is_local = matches!(server.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let mut tries = 0;
        loop {
            let from = is_local.then(|| self.take());
            match connect(from, server) {
                // Of another generator, or of one that ended a moment ago.
                Err(error) if is_taken(&error) && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// 127.1.0.0 to 127.254.255.255, all ports of one address before the next.
    fn take(&self) -> SocketAddr {
        let ports = u32::from(PORTS.end - PORTS.start);
        let place = self
            .first
            .wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let (address, port) = (place / ports, place % ports);
        let [_, _, high, low] = address.to_be_bytes();
        let ip = Ipv4Addr::new(127, 1 + high % 254, low, 1);
        #[expect(clippy::cast_possible_truncation, reason = "below the number of ports")]
        let port = PORTS.start + port as u16;
        SocketAddr::new(ip.into(), port)
    }
}

fn connect(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if let Some(from) = from {
        // A server that wants this port on all addresses must not be kept from it.
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        // Under way, as every connection is that does not block (connect(2)).
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        result => result?,
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_hundred_thousand_connections_have_addresses_of_their_own() {
        let sources = Sources::new();
        let all: HashSet<_> = (0..100_000).map(|_| sources.take()).collect();
        assert_eq!(all.len(), 100_000);
        assert!(
            all.iter()
                .all(|a| a.ip().is_loopback() && PORTS.contains(&a.port()))
        );
    }
}
