//! Every metric's name, kind and help, in one table, and the label values that must be bounded. Where something is
//! counted, the name is taken from here.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use shared::command::name as command;
use shared::event::name as event;
use shared::{ErrorCode, Role, SenderType};

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says, with its labels.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values below each of these bounds.
    Histogram(&'static [f64]),
}

/// From half a millisecond, where a message stays on one node, to the 10 s after which somebody has asked again. Seconds.
const LATENCY: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Doubling, up to more than one group commit takes in.
const BATCH: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

macro_rules! metrics_table {
    ($($name:ident = $text:literal, $kind:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $name: &str = $text;
        )*

        /// Every metric.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: $kind, help: $help }),*
        ];
    };
}

metrics_table! {
    CONNECTIONS = "chat_connections", Kind::Gauge,
        "Open sockets, by transport (websocket, polling, plain) and role.";
    CONNECTS = "chat_connects_total", Kind::Counter,
        "Sockets that were let in.";
    DISCONNECTS = "chat_disconnects_total", Kind::Counter,
        "Sockets that ended, by reason.";
    MESSAGES = "chat_messages_total", Kind::Counter,
        "Messages stored, by sender_type.";
    EVENTS = "chat_events_total", Kind::Counter,
        "Events over sockets, by direction (in, out) and event.";
    MESSAGE_LATENCY = "chat_message_latency_seconds", Kind::Histogram(LATENCY),
        "From taking a message in to handing it to a socket that hears it.";
    ERRORS = "chat_errors_total", Kind::Counter,
        "Failures answered over REST and sockets, by code.";
    AUTH_FAILURES = "chat_auth_failures_total", Kind::Counter,
        "Sign-ins and tokens refused, by reason.";
    RATE_LIMITED = "chat_rate_limited_total", Kind::Counter,
        "Attempts over a limit, by limit.";
    SHED = "chat_shed_total", Kind::Counter,
        "What was turned away at once because too much was under way, by what.";
    IN_FLIGHT = "chat_in_flight", Kind::Gauge,
        "What is under way, waiting included, of that which is bounded, by what.";
    HTTP_REQUESTS = "chat_http_requests_total", Kind::Counter,
        "REST requests answered, by method, route (its pattern, unmatched for none) and status.";
    HTTP_DURATION = "chat_http_request_seconds", Kind::Histogram(LATENCY),
        "From a REST request to its answer, by method and route.";
    COMMIT = "chat_commit_seconds", Kind::Histogram(LATENCY),
        "One group commit of messages.";
    COMMIT_BATCH_SIZE = "chat_commit_batch_size", Kind::Histogram(BATCH),
        "Messages in one group commit.";
    REPLICA_LAG = "chat_replica_lag_seconds", Kind::Gauge,
        "How far the database's replica is behind, as far as is known; only where there is one.";
    REPLICA_READS = "chat_replica_reads_total", Kind::Counter,
        "Reads that may lag, by result: replica, or, from the database itself, own_write (the reader wrote lately), behind, down; only where there is a replica.";
    BUS_PUBLISHED = "chat_bus_published_total", Kind::Counter,
        "Envelopes published on the bus.";
    BUS_PUBLISH = "chat_bus_publish_seconds", Kind::Histogram(LATENCY),
        "One publish call to the bus.";
    PUBLISH_FAILURES = "chat_publish_failures_total", Kind::Counter,
        "Attempts to publish committed changes that failed; the changes wait in the outbox.";
    BUS_PARKED = "chat_bus_parked_total", Kind::Counter,
        "Envelopes that came to the bus before their elder, and waited.";
    BUS_LAG = "chat_bus_lag_seconds", Kind::Histogram(LATENCY),
        "From publishing an envelope to hearing it; between machines with their clocks' difference.";
    BUS_INTERRUPTIONS = "chat_bus_interruptions_total", Kind::Counter,
        "Times this node's link to the bus broke and came back.";
    BUS_REPLAYED = "chat_bus_replayed_total", Kind::Counter,
        "Envelopes that this node's link to the bus missed, and that were handed on later.";
    BUS_GAPS = "chat_bus_gaps_total", Kind::Counter,
        "Gaps in what this node heard from the bus, by filled_by: history (of the bus) or database.";
    RECOVERIES = "chat_recoveries_total", Kind::Counter,
        "Socket.IO clients that came back to recover their state, by result: recovered, unknown (or away too long), gap (not known what came since), too_much.";
    BUS_CATCHING_UP = "chat_bus_catching_up", Kind::Gauge,
        "1 while this node looks in the database for what the bus missed, and is not ready; else 0.";
    SLOW_SOCKET_CLOSINGS = "chat_slow_socket_closings_total", Kind::Counter,
        "Sockets closed because too much waited for them.";
    VOLATILE_DROPPED = "chat_volatile_dropped_total", Kind::Counter,
        "Passing signs (typing, presence) that a slow socket did not get.";
}

/// Tells the recorder every metric's help, and starts at zero what has few and known labels: a rate over a counter that
/// appears with its first count misses that one.
pub fn announce() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.help),
        }
    }
    for code in ErrorCode::ALL {
        counter!(ERRORS, "code" => code.as_str()).increment(0);
    }
    for side in [SenderType::Client, SenderType::Agency] {
        counter!(MESSAGES, "sender_type" => side.as_str()).increment(0);
    }
    for filled_by in ["history", "database"] {
        counter!(BUS_GAPS, "filled_by" => filled_by).increment(0);
    }
    for result in ["recovered", "unknown", "gap", "too_much"] {
        counter!(RECOVERIES, "result" => result).increment(0);
    }
    gauge!(BUS_CATCHING_UP).set(0.0);
    for transport in ["websocket", "polling", "plain"] {
        for role in [Role::User, Role::Admin] {
            gauge!(CONNECTIONS, "transport" => transport, "role" => role.as_str()).increment(0.0);
        }
    }
    for name in [
        CONNECTS,
        BUS_PUBLISHED,
        BUS_PARKED,
        PUBLISH_FAILURES,
        BUS_REPLAYED,
        BUS_INTERRUPTIONS,
        BUS_REPLAYED,
        SLOW_SOCKET_CLOSINGS,
        VOLATILE_DROPPED,
    ] {
        counter!(name).increment(0);
    }
}

/// An event's name as a label: a client can send any name, and every new label value costs memory for ever.
pub fn event_label(name: &str) -> &'static str {
    command::ALL
        .iter()
        .chain(event::ALL)
        .find(|known| **known == name)
        .copied()
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus_custom() {
        for metric in METRICS {
            assert!(metric.name.starts_with("chat_"), "{}", metric.name);
            let is_total = metric.name.ends_with("_total");
            let is_counter = matches!(metric.kind, Kind::Counter);
            assert_eq!(is_total, is_counter, "{}", metric.name);
        }
        let names: std::collections::BTreeSet<_> = METRICS.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }

    #[test]
    fn a_strangers_event_is_no_label() {
        assert_eq!(event_label("chatMessage"), "chatMessage");
        assert_eq!(event_label("typingStatus"), "typingStatus");
        assert_eq!(event_label("x-0001"), "other");
        assert_eq!(event_label(""), "other");
    }
}
