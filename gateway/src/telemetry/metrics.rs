//! Every metric's name, kind and help, in one table, and the label values that must be bounded.

/// Open sockets. Labels: `transport`, `role`.
pub const CONNECTIONS: &str = "chat_connections";
/// Sockets that were let in.
pub const CONNECTS: &str = "chat_connects_total";
/// Sockets that ended. Label: `reason`.
pub const DISCONNECTS: &str = "chat_disconnects_total";
/// Messages stored. Label: `sender_type`.
pub const MESSAGES: &str = "chat_messages_total";
/// Events over sockets. Labels: `direction` (`in`, `out`), `event` (see `event_label`).
pub const EVENTS: &str = "chat_events_total";
/// From taking a message in to having it on its way to a socket, seconds.
pub const MESSAGE_LATENCY: &str = "chat_message_latency_seconds";
/// Failures answered. Label: `code`.
pub const ERRORS: &str = "chat_errors_total";
/// Envelopes published. Label: `outcome`.
pub const BUS_PUBLISHED: &str = "chat_bus_published_total";
/// One publish call, seconds.
pub const BUS_PUBLISH: &str = "chat_bus_publish_seconds";
/// Times the bus's link was broken and came back.
pub const BUS_INTERRUPTIONS: &str = "chat_bus_interruptions_total";
/// From publishing to hearing, seconds.
pub const BUS_LAG: &str = "chat_bus_lag_seconds";
/// Envelopes that came before their elder.
pub const BUS_PARKED: &str = "chat_bus_parked_total";
/// Sockets closed because their outbox was full.
pub const SLOW_SOCKET_CLOSINGS: &str = "chat_slow_socket_closings_total";
/// Volatile events that a slow socket did not get.
pub const VOLATILE_DROPPED: &str = "chat_volatile_dropped_total";
/// One group commit, seconds.
pub const COMMIT: &str = "chat_commit_seconds";
/// Messages in one group commit.
pub const COMMIT_BATCH_SIZE: &str = "chat_commit_batch_size";
/// Attempts over a limit. Label: `limit`.
pub const RATE_LIMITED: &str = "chat_rate_limited_total";
/// Sign-ins and tokens refused. Label: `reason`.
pub const AUTH_FAILURES: &str = "chat_auth_failures_total";
/// REST requests answered. Labels: `method`, `route` (its pattern, `unmatched` for none), `status`.
pub const HTTP_REQUESTS: &str = "chat_http_requests_total";
/// From a REST request to its answer, seconds. Labels: `method`, `route`.
pub const HTTP_DURATION: &str = "chat_http_request_seconds";
