//! Which web pages may talk to the gateway: the origins of CORS and of WebSocket handshakes. Headers are `api`'s and
//! `realtime`'s business.

use std::net::Ipv6Addr;

use http::Uri;

/// The origins that are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Any.
    Any,
    /// These, in lower case and without the scheme's own port, as browsers send them.
    These(Vec<String>),
}

impl Origins {
    /// Whether a page of this origin (the value of an `Origin` header) is let in.
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(list) => list.iter().any(|one| one.eq_ignore_ascii_case(origin)),
        }
    }

    /// Reads one origin as an operator writes it: scheme, host, and maybe a port.
    pub(super) fn parse_one(text: &str) -> Result<String, String> {
        let complaint =
            || "must be a list of origins such as https://app.example.com:8443".to_owned();
        let uri: Uri = text.parse().map_err(|_| complaint())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(complaint());
        };
        let bare = matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && !authority.as_str().contains('@');
        if !bare {
            return Err(complaint());
        }
        let host = authority.host().to_ascii_lowercase();
        if !is_host(&host) {
            return Err(complaint());
        }
        Ok(match (scheme, authority.port_u16()) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}"),
            (_, Some(port)) => format!("{scheme}://{host}:{port}"),
        })
    }
}

/// Whether a browser could be on this host. One with a `*`, say, would be taken for a pattern and never match.
fn is_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_browsers_send_them() {
        for (written, sent) in [
            ("https://App.Example.com", "https://app.example.com"),
            ("https://app.example.com:443/", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(Origins::parse_one(written).as_deref(), Ok(sent));
        }
        let origins = Origins::These(vec!["https://app.example.com".into()]);
        assert!(origins.allow("https://app.example.com"));
        assert!(!origins.allow("https://app.example.com.evil.org"));
        assert!(!origins.allow("http://app.example.com"));
        assert!(!origins.allow("null"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in [
            "app.example.com",
            "https://a.example/path",
            "https://a.example/?q",
            "https://user@a.example",
            "https://",
            "https://*.example.com",
            "https://[x]:443",
            "https://a;b.example",
            "/",
        ] {
            assert!(Origins::parse_one(bad).is_err(), "{bad}");
        }
    }
}
