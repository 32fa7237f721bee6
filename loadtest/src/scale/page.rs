//! The page: the figures as tables, and what follows from them, with the arithmetic shown.

use std::fmt::Write;

use super::Figures;
use super::crowd::Crowd;
use super::nodes::{Bystanders, Cost};
use super::table::{Filled, Tables};

/// What is asked for on paper.
const CONNECTIONS: f64 = 1_000_000.0;
const MESSAGES: f64 = 100_000.0;
/// What one node is given there: cores, and bytes of memory. The core is loaded to this share.
const NODE_CORES: f64 = 4.0;
const NODE_BYTES: f64 = 8e9;
const LOADED: f64 = 0.6;
/// Bytes of a connection in the kernel, beside the process: its socket and its place in epoll.
const KERNEL_BYTES: f64 = 4_096.0;

/// The whole page.
pub(super) fn page(found: &Figures) -> String {
    let mut text = format!(
        "# Scale\n\n\
         Written by `make scale`; to repeat it, run that. How it is measured stands in\n\
         [loadtest/README.md](../loadtest/README.md#scale). The nodes share one core, everything else (generators, MariaDB\n\
         with `innodb_flush_log_at_trx_commit=1`, Redis) has the other.\n\n\
         - Machine: {}\n",
        found.machine
    );
    for line in &found.versions {
        let _ = writeln!(text, "- {line}");
    }
    if let Some(costs) = &found.nodes {
        let _ = write!(
            text,
            "\n## Nodes\n\nThe same 500 conversations and 10 agents at the same rate, over ever more nodes. Half of the clients or more are\n\
             then on another node than their agent, and every node has agents who hear all notifications.\n\n"
        );
        text += &costs_table("nodes", costs);
    }
    if let Some(costs) = &found.busy_nodes {
        text += "\nThe same as fast as it goes, with 8 messages of each client in flight: all nodes share one core, so this is no\n\
                 throughput that nodes add, but the cost of a message where many share a transaction and a call.\n\n";
        text += &costs_table("nodes", costs);
    }
    if let Some(bystanders) = &found.bystanders {
        text += &bystanders_table(bystanders);
    }
    if let Some(costs) = &found.conversations {
        let _ = write!(
            text,
            "\n## Conversations\n\nOne node; 50 agents write as fast as 400 messages in flight let them, in all conversations in turn, so that each is\n\
             rarely met twice. A message is heard by its sender's two sockets.\n\n"
        );
        text += &costs_table("conversations", costs);
    }
    if let Some(tables) = &found.table {
        text += &tables_table(tables);
    }
    if let Some(crowd) = &found.connections {
        text += &crowd_table(crowd);
    }
    text += &paper(found);
    text
}

fn costs_table(of: &str, costs: &[Cost]) -> String {
    let mut text = format!(
        "| {of} | messages/s | deliveries each | nodes, \u{b5}s of CPU a message | Redis | MariaDB | heard p50 / p99, ms | lost or wrong |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for cost in costs {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} / {:.2} | {} |",
            whole(cost.of as f64),
            cost.messages_per_second,
            cost.deliveries_per_message,
            cost.nodes_us,
            cost.redis_us,
            cost.mariadb_us,
            cost.heard_p50_ms,
            cost.heard_p99_ms,
            cost.wrong
        );
    }
    text
}

fn bystanders_table(bystanders: &[Bystanders]) -> String {
    let mut text = String::from(
        "\nWhat a node pays for traffic that is not its own: nodes with clients who hear nothing, beside one that takes in all\n\
         messages.\n\n\
         | nodes beside | clients of each | CPU of each while nobody writes, ms/s | beside traffic, ms/s | messages/s | the busy node, ms/s |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for one in bystanders {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {:.0} | {:.0} |",
            one.nodes,
            whole(f64::from(one.clients_each)),
            one.quiet_ms,
            one.busy_ms,
            one.messages_per_second,
            one.busy_node_ms
        );
    }
    text
}

fn tables_table(tables: &Tables) -> String {
    let (small, large) = (&tables.small, &tables.large);
    let describe = |table: &Filled| {
        format!(
            "{} messages in {} conversations ({:.2} GB)",
            whole_of(table.messages),
            whole(f64::from(table.conversations)),
            bytes(table.bytes) / 1e9
        )
    };
    let mut text = format!(
        "\n## Stored messages\n\n{} beside {}; the large one was filled in {:.0} s. {} requests of\n\
         each kind over REST, one after another, each in another conversation; times in ms, on a database buffer of 1 GB.\n\n\
         | | small, p50 | p99 | large, p50 | p99 |\n| --- | ---: | ---: | ---: | ---: |\n",
        describe(large),
        describe(small),
        large.seconds_to_fill,
        whole(f64::from(large.requests)),
    );
    for (name, (p50, p99)) in &large.times {
        let (small_p50, small_p99) = small.times.get(name).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {name} | {small_p50:.2} | {small_p99:.2} | {p50:.2} | {p99:.2} |"
        );
    }
    text
}

fn crowd_table(crowd: &Crowd) -> String {
    format!(
        "\n## Idle connections\n\n\
         | connections | nodes | memory of all nodes | of a connection, bytes | CPU of all nodes, ms/s | for 10,000, ms/s | lost | Redis' memory |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n\
         | {} | {} | {:.0} MB | {} | {:.0} | {:.1} | {} | {:.0} MB |\n",
        whole_of(crowd.connections),
        crowd.nodes,
        bytes(crowd.rss_after) / 1e6,
        whole(crowd.bytes_per_connection),
        crowd.cpu_ms_per_second,
        cpu_of_10_000(crowd),
        crowd.lost,
        bytes(crowd.redis_rss) / 1e6,
    )
}

/// A million connections and 100,000 messages a second.
fn paper(found: &Figures) -> String {
    let (Some(nodes), Some(conversations), Some(tables), Some(crowd)) = (
        &found.busy_nodes,
        &found.conversations,
        &found.table,
        &found.connections,
    ) else {
        return String::new();
    };
    let (Some(two), Some(spread)) = (nodes.iter().find(|cost| cost.of >= 2), conversations.last())
    else {
        return String::new();
    };
    let memory = crowd.bytes_per_connection + KERNEL_BYTES;
    let by_memory = (CONNECTIONS * memory / (NODE_BYTES * LOADED)).ceil();
    let idle_cores = cpu_of_10_000(crowd) / 1e3 * CONNECTIONS / 1e4;
    let node_cores = two.nodes_us * MESSAGES / 1e6;
    let cores = node_cores + idle_cores;
    let by_cpu = (cores / (NODE_CORES * LOADED)).ceil();
    // The dearer of what was measured: in a fleet of that size writers meet each conversation as seldom as in the table of
    // conversations, or batches are as full as in that of nodes; nobody should have to hope for the better of the two.
    let redis = two.redis_us.max(spread.redis_us);
    let redis_cores = redis * MESSAGES / 1e6;
    let mariadb = spread.mariadb_us.max(two.mariadb_us);
    let mariadb_cores = mariadb * MESSAGES / 1e6;
    let row = bytes(tables.large.bytes) / bytes(tables.large.messages);
    let day = row * MESSAGES * 86_400.0;
    let redis_first = 1e6 / redis * LOADED;
    let mut text = format!(
        "\n## A million connections and 100,000 messages a second\n\n\
         On paper, from the figures above, on machines such as this one: a node has {NODE_CORES} cores and {:.0} GB, and cores and memory are\n\
         used to {:.0}%. Traffic as in the table of nodes: {:.0} deliveries a message. Of Redis and MySQL the dearer figure counts, be it from the\n\
         table of nodes or that of conversations.\n\n",
        NODE_BYTES / 1e9,
        LOADED * 100.0,
        two.deliveries_per_message
    );
    let mut line = |what: &str, how: String| {
        let _ = writeln!(text, "- **{what}**: {how}");
    };
    line(
        "Memory",
        format!(
            "({} + {} bytes in the kernel) x 1,000,000 = {:.1} GB; / ({:.0} GB x {LOADED}) = {by_memory} nodes.",
            whole(crowd.bytes_per_connection),
            whole(KERNEL_BYTES),
            CONNECTIONS * memory / 1e9,
            NODE_BYTES / 1e9
        ),
    );
    line(
        "Nodes' CPU",
        format!(
            "{:.1} \u{b5}s x 100,000 = {node_cores:.1} cores for messages, {:.1} ms/s x 100 = {idle_cores:.1} for heartbeats; \
             {cores:.1} / ({NODE_CORES} x {LOADED}) = {by_cpu} nodes. The larger of the two, and one to spare: **{} nodes**.",
            two.nodes_us,
            cpu_of_10_000(crowd),
            by_memory.max(by_cpu) + 1.0
        ),
    );
    line(
        "Redis",
        format!(
            "{redis:.1} \u{b5}s x 100,000 = {redis_cores:.1} cores, and one Redis uses one: it ends at about {} messages/s \
             ({LOADED} / {redis:.1} \u{b5}s). **{} of them** are needed, by conversation; the order of the bus is one for all, so that is not \
             a matter of settings yet. A connection's presence and state cost it {} bytes each: {:.1} GB for a million.",
            whole(redis_first),
            (redis_cores / LOADED).ceil(),
            whole(bytes(crowd.redis_rss) / bytes(crowd.connections.max(1))),
            bytes(crowd.redis_rss) / bytes(crowd.connections.max(1)) * CONNECTIONS / 1e9
        ),
    );
    line(
        "MySQL",
        format!(
            "{mariadb:.1} \u{b5}s x 100,000 = {mariadb_cores:.1} cores; servers of 16 cores at {:.0}%, by conversation: **{}**. Stored: {} bytes \
             a message with its log and indexes x 100,000 x 86,400 = {:.1} TB a day, and `Messages.id`, an INT, ends after \
             2,147,483,647 / 100,000 = {:.1} hours.",
            LOADED * 100.0,
            (mariadb_cores / (16.0 * LOADED)).ceil(),
            whole(row),
            day / 1e12,
            2_147_483_647.0 / MESSAGES / 3_600.0
        ),
    );
    let _ = write!(
        text,
        "\nWhat breaks first, in this order:\n\n\
         1. **Redis**, at about {} messages/s: one thread runs the publish script and hands every message to every node that has a\n   \
            member of its rooms.\n\
         2. **MySQL**, at about {} messages/s on one server of 16 cores, once its disk keeps up with {:.0} MB of rows a second;\n   \
            and, whatever the hardware, the width of the old system's `Messages.id` after two billion messages in all.\n\
         3. **The room `admin`**: whoever is an agent hears of every client's message, on every node, so deliveries are the\n   \
            product of messages and agents online. At 100,000 messages/s and 1,000 agents that is 100 million deliveries a second,\n   \
            which no number of nodes is a sensible answer to: notifications have to be summed up or dealt out by then.\n\
         4. **Nodes** do not break: they share nothing but Redis and the database, and are added.\n",
        whole(redis_first),
        whole(16.0 * LOADED * 1e6 / mariadb),
        row * 16.0 * LOADED / mariadb,
    );
    text
}

fn cpu_of_10_000(crowd: &Crowd) -> f64 {
    crowd.cpu_ms_per_second * 1e4 / bytes(crowd.connections.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

fn whole_of(count: u64) -> String {
    whole(bytes(count))
}

/// A number without fractions, in groups of three digits.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [
            (0.4, "0"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(whole(value), text);
        }
    }

    #[test]
    fn what_was_not_measured_is_not_spoken_of() {
        let page = page(&Figures::default());
        assert!(!page.contains("## "), "{page}");
    }
}
