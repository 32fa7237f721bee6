//! What sign-ins are counted by. How many are too many is a setting, and counting is `cluster`'s.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::access_token::hex;

/// What a client's address is counted by. An IPv6 customer has a whole /64 to call from.
pub(super) fn address_key(remote: IpAddr) -> String {
    match remote.to_canonical() {
        IpAddr::V4(address) => format!("login:address:{address}"),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("login:address:{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// What an account is counted by, whether there is one or not: of one length, and no list of addresses for whoever reads
/// Redis.
pub(super) fn account_key(email: &str) -> String {
    let digest = Sha256::digest(email.to_lowercase());
    format!("login:account:{}", hex(&digest[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_counted_however_it_is_written() {
        assert_eq!(
            account_key("Ann@Example.com"),
            account_key("ann@example.com")
        );
        assert_ne!(
            account_key("ann@example.com"),
            account_key("bob@example.com")
        );
        assert!(!account_key("ann@example.com").contains("ann"));
    }

    #[test]
    fn an_address_is_counted_by_who_has_it() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    }
}
