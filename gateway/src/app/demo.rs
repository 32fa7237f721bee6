//! The accounts that development mode makes in an empty embedded database, so that a newcomer's first chat needs no set-up.

use shared::Timestamp;

use crate::auth::Passwords;
use crate::failure::Failure;
use crate::store::{NewAdmin, NewClient, SharedStore};

/// The demo accounts' password: no secret, and never made outside development mode on the embedded database.
const PASSWORD: &str = "demo-password";
const AGENT: &str = "agent@demo.test";
const CLIENT: &str = "client@demo.test";

/// Makes the demo accounts where they are not there yet, and tells them.
pub(super) async fn offer(store: &SharedStore, passwords: &Passwords) -> Result<(), Failure> {
    if store.credentials(CLIENT).await?.is_none() && store.credentials(AGENT).await?.is_none() {
        let password_hash = passwords.hash(PASSWORD).await?;
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
    }
    println!("    demo accounts      {CLIENT} and {AGENT}, password {PASSWORD}");
    println!(
        "    a first chat       make chat AS=client, and in another terminal make chat AS=agent\n"
    );
    Ok(())
}
