//! What can be set about sockets. Where a setting comes from is not known here.

use std::time::Duration;

use http::HeaderMap;
use http::header;
use ipnet::IpNet;

use crate::config::Origins;

/// How sockets are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long after the last sign of life a client is pinged.
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping.
    pub ping_timeout: Duration,
    /// How long a connection may be without a socket that was let in.
    pub connect_timeout: Duration,
    /// How long an upgrade to WebSocket may take.
    pub upgrade_timeout: Duration,
    /// How long a request, or a packet's attachments, may take to arrive whole.
    pub request_timeout: Duration,
    /// The most bytes of a frame, of a packet with its attachments, or of a polling payload.
    pub max_payload: usize,
    /// The most attachments of one packet.
    pub max_attachments: usize,
    /// The most namespaces of one connection.
    pub max_namespaces: usize,
    /// How many bytes may wait to be sent to one connection before it is too slow. From half of it on, volatile events
    /// are left out.
    pub outbox_bytes: usize,
    /// Whose pages may connect.
    pub origins: Origins,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Engine.IO's own defaults: a client that lost its network is noticed within 45 s.
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            upgrade_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_payload: 1_000_000,
            // The reference parser's.
            max_attachments: 10,
            // One is usual, a few are thinkable.
            max_namespaces: 8,
            // About a thousand messages: minutes of a busy room, for a phone in a tunnel; and with ten thousand clients
            // of which one in a hundred is stuck, 100 MB at worst.
            outbox_bytes: 1 << 20,
            origins: Origins::Any,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether a request may come from where it says it comes from: a page that is let in, or one of this host itself.
    /// Programs that are no browsers don't say.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        origin
            .to_str()
            .is_ok_and(|origin| self.origins.allow(origin) || is_same_host(origin, headers))
    }
}

/// Browsers send an `Origin` with a WebSocket handshake even to the page's own host.
fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    match (origin.split_once("://"), host) {
        (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn origins_are_listed_or_the_host_itself() {
        let only = Settings {
            origins: Origins::These(vec!["https://a.example".to_owned()]),
            ..Settings::default()
        };
        let allow = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("chat.example:5000"));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            only.allows(&headers)
        };
        assert!(allow("https://A.example"));
        assert!(allow("http://chat.example:5000"));
        for other in [
            "https://b.example",
            "https://a.example.evil",
            "http://chat.example",
            "null",
            "",
        ] {
            assert!(!allow(other), "{other}");
        }
        assert!(only.allows(&HeaderMap::new()));
    }
}
