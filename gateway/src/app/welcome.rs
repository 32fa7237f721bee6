//! What a newcomer is told: where to look, and the demo accounts that development mode makes in the embedded database, so
//! that a first chat needs no set-up.

use std::net::SocketAddr;

use shared::Timestamp;

use crate::auth::Passwords;
use crate::failure::Failure;
use crate::store::{NewAdmin, NewClient, SharedStore};

/// The demo accounts' password: no secret, and never made outside development mode on the embedded database.
const PASSWORD: &str = "demo-password";
const AGENT: &str = "agent@demo.test";
const CLIENT: &str = "client@demo.test";

/// Where the example looks by itself.
const DEFAULT_PORT: u16 = 5000;

/// Where a node is found.
pub(super) struct Welcome {
    /// The host and port that a client on this machine uses.
    pub(super) host: String,
    pub(super) port: u16,
    /// Where its metrics are.
    pub(super) metrics: Option<SocketAddr>,
    /// Whether there are demo accounts.
    pub(super) has_demo: bool,
}

impl Welcome {
    /// Makes the demo accounts where they are not there yet, and tells everything in one piece: to be called when the
    /// database is up to date.
    pub(super) async fn give(self, store: &SharedStore) -> Result<(), Failure> {
        let url = format!("http://{}:{}", self.host, self.port);
        let mut lines = vec![
            "The chat gateway is up (development mode).".to_owned(),
            String::new(),
            format!("  REST and sockets   {url}"),
            format!("  its documentation  {url}/api/docs"),
        ];
        if let Some(address) = self.metrics {
            lines.push(format!("  metrics            http://{address}/metrics"));
        }
        if self.has_demo {
            make_accounts(store).await?;
            let elsewhere = match self.port {
                DEFAULT_PORT => String::new(),
                _ => format!("GATEWAY_URL={url} "),
            };
            lines.extend([
                format!("  demo accounts      {CLIENT} and {AGENT}, password {PASSWORD}"),
                format!("  a first chat       {elsewhere}make chat AS=client"),
                format!("  and elsewhere      {elsewhere}make chat AS=agent"),
            ]);
        }
        let text: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        println!("\n{text}");
        Ok(())
    }
}

async fn make_accounts(store: &SharedStore) -> Result<(), Failure> {
    if store.credentials(CLIENT).await?.is_some() || store.credentials(AGENT).await?.is_some() {
        return Ok(());
    }
    let password_hash = Passwords::default().hash(PASSWORD).await?;
    let at = Timestamp::now();
    let agent = NewAdmin {
        email: AGENT.to_owned(),
        password_hash: password_hash.clone(),
        first_name: Some("Demo".to_owned()),
        last_name: Some("Agent".to_owned()),
        at,
    };
    let client = NewClient {
        email: CLIENT.to_owned(),
        password_hash,
        first_name: "Demo".to_owned(),
        last_name: "Client".to_owned(),
        company: None,
        phone: None,
        country: None,
        at,
    };
    // An address that has been taken meanwhile is somebody's own.
    let _ = store.create_admin(&agent).await?;
    let _ = store.register_client(&client).await?;
    Ok(())
}
