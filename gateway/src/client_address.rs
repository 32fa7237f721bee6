//! Where a request really comes from: the peer, or, behind proxies that are trusted, what they say in `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The header that proxies append the address of their own peer to.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client behind the trusted proxies.
///
/// Every proxy appends its peer, so the list is read from its end, and the first hop that is not trusted is the client:
/// whatever stands left of it, that client may have made up. A hop that is no address ends the walk, as nothing before it
/// can be believed.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    // Several lines of the header are one list (RFC 9110, section 5.3).
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    for hop in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        if !is_trusted(&client) {
            break;
        }
        match address(hop) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// An address as proxies write it: bare, or with a port.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|with_port| with_port.ip()))
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"], &[]), "203.0.113.9");
        assert_eq!(client("203.0.113.9", &["198.51.100.1"], &["10.0.0.0/8"]), "203.0.113.9");
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_client() {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        assert_eq!(client("10.0.0.1", &[], &trusted), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"], &trusted), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"], &trusted), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1", "10.0.0.2"], &trusted), "198.51.100.1");
        assert_eq!(client("fd00::1", &["2001:db8::7"], &trusted), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"], &trusted), "10.0.0.3");
    }

    #[test]
    fn hops_may_bear_ports_and_be_nonsense() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(client("10.0.0.1", &["198.51.100.1:4711"], &trusted), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["[2001:db8::7]:4711"], &trusted), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["[2001:db8::7]"], &trusted), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, unknown"], &trusted), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, ,10.0.0.2"], &trusted), "10.0.0.2");
        assert_eq!(client("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], &trusted), "198.51.100.1");
    }
}
