//! Requests to a node's REST routes, one after another on one connection, with the time that each took.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::world::Fault;

/// The longest answer that is read.
const MAX_BODY: usize = 16 << 20;

/// A connection.
pub(super) struct Rest {
    stream: BufReader<TcpStream>,
}

impl Rest {
    pub(super) fn connect(server: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks, and returns the body of a successful answer, and how long it took.
    pub(super) fn ask(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> Result<(Vec<u8>, Duration), Fault> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let begun = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        if length > MAX_BODY {
            return Err(format!("{path}: {length} bytes").into());
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let took = begun.elapsed();
        if !status.starts_with('2') {
            let why = String::from_utf8_lossy(&body);
            return Err(format!("{method} {path}: {status} {why}").into());
        }
        Ok((body, took))
    }
}
