//! Passing signs (typing, presence): told to whoever listens just now, and not kept. Durable changes are `events`' and
//! `publisher`'s.

use std::sync::Arc;

use shared::{Delivery, Envelope, Timestamp};

use crate::bus::{Bus, Publication};
use crate::failure::Failure;

/// Publishes a sign. What gets lost is not told again.
pub(super) async fn publish(bus: &dyn Bus, sign: Delivery) -> Result<(), Failure> {
    let envelope = Envelope {
        position: None,
        deliveries: vec![sign],
        sent_at: Timestamp::now().unix_millis(),
        closes: None,
        trace: None,
    };
    bus.publish(&[Publication {
        envelope: Arc::new(envelope),
        begins_at: None,
    }])
    .await?;
    Ok(())
}
