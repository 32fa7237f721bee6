//! Every metric's name, kind, labels and help, in one table, from which `docs/metrics.md` is written, too. Where something is
//! counted, the name is taken from here. Handles are kept where something is counted for every message or delivery: to look one
//! up costs a hash of its name and labels each time.

use std::sync::OnceLock;

use metrics::{
    Counter, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use shared::ErrorCode;
use shared::command::name as command;
use shared::event::name as event;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its series are told apart by.
    pub labels: &'static [Label],
    /// What it says.
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

impl Kind {
    /// As Prometheus calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label and what it may say: every new value costs memory for ever, here and in Prometheus, so there is an end to them.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub values: Values,
}

/// What a label may say.
#[derive(Debug)]
pub enum Values {
    /// One of these. A metric all of whose labels are so is there from the start, at zero: a rate over a counter that appears
    /// with its first count misses that one.
    These(&'static [&'static str]),
    /// One of more than are worth a list: in words, which.
    Words(&'static str),
}

const fn these(name: &'static str, values: &'static [&'static str]) -> Label {
    Label {
        name,
        values: Values::These(values),
    }
}

const fn words(name: &'static str, values: &'static str) -> Label {
    Label {
        name,
        values: Values::Words(values),
    }
}

/// From half a millisecond, where a message stays on one node, to the 10 s after which somebody has asked again. Seconds.
const LATENCY: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// From what nobody notices to what a node must not take: waits within the process, and work that touches nothing outside.
const SHORT: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// Doubling, up to more than one group commit takes in.
const BATCH: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

/// What is bounded: the names of the gates.
const BOUNDED: &[&str] = &[
    "commands",
    "database",
    "handshakes",
    "message_bytes",
    "messages",
    "passwords",
    "publishing",
    "requests",
];

/// Where connections are kept.
const POOLS: &[&str] = &["database", "database_writer", "replica", "redis"];

const ROLES: &[&str] = &["user", "admin"];

const EVENT_NAMES: &str = "the events of docs/events.md, or other";

const ROUTES: &str = "the pattern of the route, or unmatched";

const METHODS: &str = "the method, or other";

macro_rules! metrics_table {
    ($($name:ident = $text:literal, $kind:expr, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $name: &str = $text;
        )*

        /// Every metric.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: $kind, labels: $labels, help: $help }),*
        ];
    };
}

metrics_table! {
    CONNECTIONS = "chat_connections", Kind::Gauge, &[these("transport", &["websocket", "polling", "plain"]), these("role", ROLES)],
        "Open sockets.";
    CONNECTS = "chat_connects_total", Kind::Counter, &[],
        "Sockets that were let in.";
    DISCONNECTS = "chat_disconnects_total", Kind::Counter, &[these("reason", &["client_disconnect", "transport_close", "ping_timeout", "protocol_error", "too_slow", "unauthorized", "token_expired", "draining", "busy", "resync"])],
        "Sockets that ended.";
    MESSAGES = "chat_messages_total", Kind::Counter, &[these("sender_type", &["client", "agency"])],
        "Messages stored.";
    EVENTS = "chat_events_total", Kind::Counter, &[these("direction", &["in", "out"]), words("event", EVENT_NAMES)],
        "Events over sockets, from clients and to them.";
    MESSAGE_LATENCY = "chat_message_latency_seconds", Kind::Histogram(LATENCY), &[],
        "From taking a message in to handing it to a socket that hears it.";
    ERRORS = "chat_errors_total", Kind::Counter, &[words("code", "the error codes")],
        "Failures answered over REST and sockets.";
    AUTH_FAILURES = "chat_auth_failures_total", Kind::Counter, &[these("reason", &["credentials", "missing_token", "invalid_token", "expired_token", "revoked_token", "refresh_reused"])],
        "Sign-ins and tokens refused.";
    RATE_LIMITED = "chat_rate_limited_total", Kind::Counter, &[these("limit", &["connects", "events", "requests", "login_address", "login_account"])],
        "Attempts over a limit.";
    SHED = "chat_shed_total", Kind::Counter, &[these("what", BOUNDED)],
        "What was turned away at once because too much was under way.";
    IN_FLIGHT = "chat_in_flight", Kind::Gauge, &[these("what", BOUNDED)],
        "What is under way, waiting included, of that which is bounded.";
    HTTP_REQUESTS = "chat_http_requests_total", Kind::Counter, &[words("method", METHODS), words("route", ROUTES), words("status", "the HTTP status")],
        "REST requests answered.";
    HTTP_DURATION = "chat_http_request_seconds", Kind::Histogram(LATENCY), &[words("method", METHODS), words("route", ROUTES)],
        "From a REST request to its answer.";
    QUEUE_WAIT = "chat_queue_seconds", Kind::Histogram(LATENCY), &[],
        "From taking a message in to the begin of its transaction: the first stage of its way.";
    COMMIT = "chat_commit_seconds", Kind::Histogram(LATENCY), &[],
        "One group commit of messages: the second stage.";
    COMMIT_BATCH_SIZE = "chat_commit_batch_size", Kind::Histogram(BATCH), &[],
        "Messages in one group commit.";
    PUBLISH = "chat_publish_seconds", Kind::Histogram(LATENCY), &[],
        "From a commit to its changes being out on the bus: the third stage.";
    DELIVER = "chat_deliver_seconds", Kind::Histogram(SHORT), &[],
        "Putting what the bus brought into the outboxes of this node's sockets: the last stage, for each envelope.";
    REPLICA_LAG = "chat_replica_lag_seconds", Kind::Gauge, &[],
        "How far the database's replica is behind, as far as is known; 0 where there is none.";
    REPLICA_READS = "chat_replica_reads_total", Kind::Counter, &[these("result", &["replica", "own_write", "behind", "down"])],
        "Reads that may lag: from the replica, or from the database itself: the reader wrote lately, the replica is behind or down; 0 where there is no replica.";
    BUS_PUBLISHED = "chat_bus_published_total", Kind::Counter, &[],
        "Envelopes published on the bus.";
    BUS_PUBLISH = "chat_bus_publish_seconds", Kind::Histogram(LATENCY), &[],
        "One publish call to the bus.";
    PUBLISH_FAILURES = "chat_publish_failures_total", Kind::Counter, &[],
        "Attempts to publish committed changes that failed; the changes wait in the outbox.";
    BUS_PARKED = "chat_bus_parked_total", Kind::Counter, &[],
        "Envelopes that came to the bus before their elder, and waited.";
    BUS_LAG = "chat_bus_lag_seconds", Kind::Histogram(LATENCY), &[],
        "From publishing an envelope to hearing it; between machines with their clocks' difference.";
    BUS_INTERRUPTIONS = "chat_bus_interruptions_total", Kind::Counter, &[],
        "Times this node's link to the bus broke and came back.";
    BUS_REPLAYED = "chat_bus_replayed_total", Kind::Counter, &[],
        "Envelopes that this node's link to the bus missed, and that were handed on later.";
    BUS_GAPS = "chat_bus_gaps_total", Kind::Counter, &[these("filled_by", &["history", "database"])],
        "Gaps in what this node heard from the bus, by what filled them: the history of the bus, or the database.";
    RECOVERIES = "chat_recoveries_total", Kind::Counter, &[these("result", &["recovered", "unknown", "gap", "too_much"])],
        "Socket.IO clients that came back to recover their state; unknown: or away too long; gap: not known what came since.";
    BUS_CATCHING_UP = "chat_bus_catching_up", Kind::Gauge, &[],
        "1 while this node looks in the database for what the bus missed, and is not ready; else 0.";
    SLOW_SOCKET_CLOSINGS = "chat_slow_socket_closings_total", Kind::Counter, &[],
        "Sockets closed because too much waited for them: their outboxes ran over.";
    VOLATILE_DROPPED = "chat_volatile_dropped_total", Kind::Counter, &[],
        "Passing signs (typing, presence) that a slow socket did not get.";
    OUTBOX_BYTES = "chat_outbox_bytes", Kind::Gauge, &[these("of", &["all", "fullest"])],
        "Bytes that wait for slow sockets of this node: of all together, and of the fullest outbox.";
    PRESENT = "chat_present_users", Kind::Gauge, &[these("role", ROLES)],
        "People with a socket on this node.";
    POOL_CONNECTIONS = "chat_pool_connections", Kind::Gauge, &[these("pool", POOLS), these("state", &["used", "idle"])],
        "Connections that this node keeps, when one was last asked for.";
    POOL_WAIT = "chat_pool_wait_seconds", Kind::Histogram(SHORT), &[these("pool", POOLS)],
        "From asking for a connection to having one, or giving up.";
    TRACE_EXPORTS = "chat_trace_exports_total", Kind::Counter, &[these("result", &["ok", "failed"])],
        "Batches of spans sent to the collector of traces.";
    BUILD_INFO = "chat_build_info", Kind::Gauge, &[words("version", "the version")],
        "1: which program this is.";
    RUNTIME_WORKERS = "chat_runtime_workers", Kind::Gauge, &[],
        "Threads of the tokio runtime that run tasks.";
    RUNTIME_BUSY = "chat_runtime_busy_ratio", Kind::Gauge, &[],
        "The share of their time that those threads had work, over the last five seconds.";
    RUNTIME_TASKS = "chat_runtime_tasks", Kind::Gauge, &[],
        "Tasks of the tokio runtime that have not ended.";
    RUNTIME_QUEUE = "chat_runtime_queue_depth", Kind::Gauge, &[],
        "Tasks that are ready and wait for a thread, in the queue that all threads share.";
    PROCESS_CPU = "process_cpu_seconds_total", Kind::Counter, &[],
        "Total user and system CPU time spent in seconds.";
    PROCESS_OPEN_FDS = "process_open_fds", Kind::Gauge, &[],
        "Number of open file descriptors.";
    PROCESS_MAX_FDS = "process_max_fds", Kind::Gauge, &[],
        "Maximum number of open file descriptors.";
    PROCESS_VIRTUAL_MEMORY = "process_virtual_memory_bytes", Kind::Gauge, &[],
        "Virtual memory size in bytes.";
    PROCESS_MAX_VIRTUAL_MEMORY = "process_virtual_memory_max_bytes", Kind::Gauge, &[],
        "Maximum amount of virtual memory available in bytes.";
    PROCESS_RESIDENT_MEMORY = "process_resident_memory_bytes", Kind::Gauge, &[],
        "Resident memory size in bytes.";
    PROCESS_START = "process_start_time_seconds", Kind::Gauge, &[],
        "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS = "process_threads", Kind::Gauge, &[],
        "Number of OS threads in the process.";
}

/// Tells the recorder every metric's help, and starts at zero what has few and known labels.
pub fn announce() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.help),
        }
        for labels in known_series(metric.labels) {
            match metric.kind {
                Kind::Counter => counter!(metric.name, &labels).increment(0),
                Kind::Gauge => gauge!(metric.name, &labels).increment(0.0),
                Kind::Histogram(_) => drop(histogram!(metric.name, &labels)),
            }
        }
    }
    for code in ErrorCode::ALL {
        counter!(ERRORS, "code" => code.as_str()).increment(0);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Every series of these labels; none where not all of their values are listed.
fn known_series(labels: &[Label]) -> Vec<Vec<(&'static str, &'static str)>> {
    labels.iter().fold(vec![Vec::new()], |series, label| {
        let Values::These(values) = label.values else {
            return Vec::new();
        };
        let with = |one: &Vec<_>, value| [one.as_slice(), &[(label.name, value)]].concat();
        series
            .iter()
            .flat_map(|one| values.iter().map(move |value| with(one, *value)))
            .collect()
    })
}

/// The table as `docs/metrics.md` shows it.
pub fn page_table() -> String {
    let mut text =
        String::from("| metric | kind | unit | labels | what |\n| --- | --- | --- | --- | --- |\n");
    for metric in METRICS {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|label| match label.values {
                Values::These(values) => format!("`{}`: {}", label.name, values.join(", ")),
                Values::Words(which) => format!("`{}`: {which}", label.name),
            })
            .collect();
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            unit(metric.name),
            labels.join("; "),
            metric.help
        );
    }
    text
}

/// By Prometheus' custom, a name says its unit; one that says none counts.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    [
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
        ("_ratio", "0 to 1"),
    ]
    .iter()
    .find_map(|(end, unit)| name.ends_with(end).then_some(*unit))
    .unwrap_or("count")
}

/// How many events went one way, by name. Keeps its handles: it is asked for every delivery.
#[derive(Debug)]
pub struct EventCounts {
    direction: &'static str,
    /// In the order of `event_names`; made with the first event of that name, as many names never come that way.
    known: Box<[(&'static str, OnceLock<Counter>)]>,
    other: OnceLock<Counter>,
}

impl EventCounts {
    /// Counts nothing yet. `direction` is `in` or `out`.
    pub fn new(direction: &'static str) -> Self {
        Self {
            direction,
            known: event_names().map(|name| (name, OnceLock::new())).collect(),
            other: OnceLock::new(),
        }
    }

    /// So many more. A client can send any name: one that is none of ours counts as `other`.
    pub fn add(&self, name: &str, count: usize) {
        let known = self.known.iter().find(|(known, _)| *known == name);
        let (label, handle) =
            known.map_or(("other", &self.other), |(name, handle)| (*name, handle));
        handle
            .get_or_init(|| counter!(EVENTS, "direction" => self.direction, "event" => label))
            .increment(count as u64);
    }
}

/// Every event's name, once.
fn event_names() -> impl Iterator<Item = &'static str> {
    let commands = command::ALL.iter();
    let events = event::ALL
        .iter()
        .filter(|name| !command::ALL.contains(name));
    commands.chain(events).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus_custom() {
        for metric in METRICS {
            let name = metric.name;
            assert!(
                name.starts_with("chat_") || name.starts_with("process_"),
                "{name}"
            );
            let is_total = name.ends_with("_total");
            let is_counter = matches!(metric.kind, Kind::Counter);
            assert_eq!(is_total, is_counter, "{name}");
        }
        let names: std::collections::BTreeSet<_> = METRICS.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }

    #[test]
    fn series_are_known_where_all_labels_are() {
        let labels = [these("a", &["1", "2"]), these("b", &["3"])];
        assert_eq!(
            known_series(&labels),
            [[("a", "1"), ("b", "3")], [("a", "2"), ("b", "3")]]
        );
        assert_eq!(known_series(&[]), [[]]);
        assert!(known_series(&[these("a", &["1"]), words("b", "many")]).is_empty());
    }

    #[test]
    fn a_strangers_event_is_no_label() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let counts = EventCounts::new("in");
            for name in ["chatMessage", "typingStatus", "x-0001", "", "chatMessage"] {
                counts.add(name, 1);
            }
        });
        let text = recorder.handle().render();
        for (event, count) in [("chatMessage", 2), ("typingStatus", 1), ("other", 2)] {
            let line = format!("chat_events_total{{direction=\"in\",event=\"{event}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(!text.contains("x-0001"));
    }
}
