//! Whose request it is. The input is the peer's address in a line, then a line for each `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use gateway::realtime::client_address;
use http::{HeaderMap, HeaderValue};

/// The trusted proxies: `10.0.0.0/8` and the machine itself.
fn is_trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.is_loopback(),
    }
}

/// The address is the last word of the nearest one we do not trust, and nobody else's.
pub fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let peer = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let Some(peer) = peer.and_then(|peer| peer.parse::<IpAddr>().ok()) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            headers.append("x-forwarded-for", line);
        }
    }
    let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let found = client_address(peer, &headers, &trusted);
    assert_eq!(found, expected(peer.to_canonical(), &headers));
    assert_eq!(found, found.to_canonical());
}

/// All that was said, nearest first; each word counts if the one before is trusted.
fn expected(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut said = Vec::new();
    for line in headers.get_all("x-forwarded-for") {
        match line.to_str() {
            Ok(line) => said.extend(line.split(',').map(|word| address(word.trim()))),
            Err(_) => said.push(None),
        }
    }
    let mut nearest = peer;
    while let Some(next) = said.pop() {
        match next {
            Some(next) if is_trusted(nearest) => nearest = next,
            _ => break,
        }
    }
    nearest
}

fn address(word: &str) -> Option<IpAddr> {
    let bare = word.parse::<IpAddr>().ok();
    let with_port = word.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.or(with_port).map(|address| address.to_canonical())
}
