//! The page of results, in Markdown: the machine, the versions, the table, the charts, and every run in figures.

use std::fmt::Write;
use std::path::Path;

use super::chart::{self, Bar};
use super::plan::{Cell, ROWS, Results, Row, Run, faults, thousands};
use super::systems::System;
use crate::report::{Outcome, Report};

/// What stands over the table.
pub(super) struct About {
    pub(super) machine: String,
    pub(super) versions: Vec<String>,
    pub(super) conditions: Vec<String>,
}

/// The charts' folder, beside the page.
const CHARTS: &str = "benchmarks";

/// Writes the page and its charts into a folder.
pub(super) fn write(folder: &Path, about: &About, results: &Results) -> std::io::Result<()> {
    let charts = folder.join(CHARTS);
    std::fs::create_dir_all(&charts)?;
    for row in ROWS {
        if let Some(svg) = draw(row, results) {
            std::fs::write(charts.join(format!("{}.svg", row.id)), svg)?;
        }
    }
    std::fs::write(folder.join("benchmarks.md"), page(about, results))
}

/// The table, as it is printed and as it stands on the page.
pub(super) fn table(results: &Results) -> String {
    let mut text = String::from(
        "| | **gateway** | Node seed (socket.io, Sequelize, mysql2) | socketioxide + sqlx | the machine's limit | to reach | |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in ROWS {
        let cell = |system| {
            let cell = row.figure(results, system);
            cell.map_or_else(|| "-".to_owned(), |cell| cell.text)
        };
        let own = row.figure(results, System::Gateway);
        let verdict = own.map_or_else(String::new, |own| verdict(row, results, &own));
        let limit = row.limit(results).map(|cell| cell.text).unwrap_or_default();
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "| {} | **{}** | {} | {} | {limit} | {} | {verdict} |",
            row.title,
            cell(System::Gateway),
            cell(System::Node),
            cell(System::Socketioxide),
            row.goal_text,
        );
    }
    text
}

/// Whether a figure reaches its goal, and where it does not, whether anything could.
fn verdict(row: &Row, results: &Results, own: &Cell) -> String {
    if row.is_reached(own) {
        return "reached".to_owned();
    }
    let limit = row.limit(results).filter(|limit| !row.is_reached(limit));
    match (limit, &own.values[..], row.goal) {
        (Some(limit), [own, ..], [goal, ..]) => match limit.values[..] {
            [limit, ..] => format!(
                "missed: the limit by itself is {:.2} of the goal, this {:.2} of the limit",
                limit / goal,
                own / limit
            ),
            [] => "missed".to_owned(),
        },
        _ => "missed".to_owned(),
    }
}

fn page(about: &About, results: &Results) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `make bench`; to repeat it, run that. What each figure means stands in\n\
         [loadtest/README.md](../loadtest/README.md).\n\n\
         - Machine: {}\n",
        about.machine
    );
    for line in about.conditions.iter().chain(&about.versions) {
        let _ = writeln!(text, "- {line}");
    }
    let _ = write!(text, "\n{}\n", table(results));
    for row in ROWS {
        if draw(row, results).is_some() {
            let _ = writeln!(text, "![{}]({CHARTS}/{}.svg)\n", row.title, row.id);
        }
    }
    text += "## Every run\n\n\
             Rates, times and use are of the measured window; counts are of the whole run. \"Generator\" is the load generator's \
             share of its core, which it shares with the database: below 100% together they did not hold the servers up.\n\n\
             | system | run | messages/s | deliveries/s | heard p50 / p99, ms | servers | MiB | generator | sent | what went wrong |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for ((system, run), result) in &results.runs {
        let _ = writeln!(text, "{}", run_line(*system, *run, result));
    }
    text
}

fn run_line(system: System, run: Run, result: &Result<Report, String>) -> String {
    let begin = format!("| {} | {}", system.title(), run.key());
    let report = match result {
        Ok(report) => report,
        Err(why) => {
            let why = why.lines().next().unwrap_or_default();
            return format!("{begin} | | | | | | | | did not come to its end: {why} |");
        }
    };
    match &report.outcome {
        Outcome::Traffic(traffic) => {
            let wrong = faults(traffic);
            format!(
                "{begin} | {} | {} | {:.2} / {:.2} | {:.0}% | {} | {:.0}% | {} | {} |",
                thousands(traffic.messages_per_second),
                thousands(traffic.deliveries_per_second),
                traffic.heard_ms.p50,
                traffic.heard_ms.p99,
                traffic.servers.busy * 100.0,
                traffic.servers.rss_bytes >> 20,
                traffic.generator.busy * 100.0,
                traffic.sent,
                wrong.trim_start_matches(", "),
            )
        }
        Outcome::Idle(idle) => format!(
            "{begin} | | | | {:.1} ms/s | {} | | | {} |",
            idle.cpu_ms_per_second,
            idle.rss_after >> 20,
            lost(idle.connections_lost),
        ),
        Outcome::Storm(storm) => format!(
            "{begin} | | | let in {:.1} / {:.1} | {:.0} ms for 1,000 | | {:.0}% | | {} |",
            storm.opened_ms.p50,
            storm.opened_ms.p99,
            storm.server_cpu_ms_per_thousand,
            storm.generator_busy * 100.0,
            lost(storm.failed),
        ),
    }
}

fn lost(connections: u64) -> String {
    if connections == 0 {
        return String::new();
    }
    format!("{connections} connections lost")
}

fn draw(row: &Row, results: &Results) -> Option<String> {
    let mut bars = Vec::new();
    for system in System::ALL {
        if let Some(cell) = row.figure(results, system) {
            let colour = if system == System::Gateway {
                chart::OWN
            } else {
                chart::OTHER
            };
            bars.push(Bar {
                name: system.title(),
                value: cell.values[0],
                colour,
            });
        }
    }
    if bars.is_empty() {
        return None;
    }
    if let Some(limit) = row.limit(results) {
        bars.push(Bar {
            name: "limit",
            value: limit.values[0],
            colour: chart::LIMIT,
        });
    }
    let title = match row.id {
        "open" => "open loop at 300 messages/s: send to receiver, p99, ms",
        _ => row.title,
    };
    Some(chart::svg(title, &bars, row.goal[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Counts;
    use crate::net::Dialect;
    use crate::report;

    fn results(counts: Counts) -> Results {
        let nothing = report::Use::default();
        let traffic = report::Traffic {
            seconds: 10.0,
            messages_per_second: 21_000.0,
            deliveries_per_second: 252_000.0,
            heard_ms: crate::latency::Percentiles::default(),
            answered_ms: crate::latency::Percentiles::default(),
            server_cpu_seconds_per_million_deliveries: 3.0,
            server_cpu_seconds_per_million_messages: 36.0,
            servers: nothing,
            generator: nothing,
            sent: 210_000,
            counts,
            gave_up: 0,
            errors: 0,
            first_error: None,
            connections_lost: 0,
            stored: None,
            samples: Vec::new(),
        };
        let report = Report {
            scenario: "chat".to_owned(),
            dialect: Dialect::SocketIo,
            nodes: 1,
            setting: String::new(),
            outcome: Outcome::Traffic(Box::new(traffic)),
        };
        let mut results = Results::default();
        results
            .runs
            .insert((System::Gateway, Run::Chat), Ok(report));
        let failed = Err("it did not start:\nlog".to_owned());
        results.runs.insert((System::Node, Run::Chat), failed);
        results
    }

    fn row_of(page: &str, begin: &str) -> String {
        let line = page.lines().find(|line| line.starts_with(begin));
        line.unwrap().to_owned()
    }

    #[test]
    fn a_figure_is_reached_or_missed_by_what_it_promises_too() {
        let begin = "| durable chat messages/s";
        let clean = row_of(&table(&results(Counts::default())), begin);
        assert!(
            clean.contains("**21,000**") && clean.ends_with("| reached |"),
            "{clean}"
        );
        let lossy = Counts {
            lost: 3,
            ..Counts::default()
        };
        let lossy = row_of(&table(&results(lossy)), begin);
        assert!(
            lossy.contains("**21,000, 3 lost**") && lossy.ends_with("| missed |"),
            "{lossy}"
        );
    }

    #[test]
    fn a_goal_that_the_machine_itself_misses_is_told() {
        let mut results = results(Counts::default());
        let report = results.runs.remove(&(System::Gateway, Run::Chat)).unwrap();
        results
            .runs
            .insert((System::Gateway, Run::FanoutOne), report);
        for (limit, verdict) in [
            (2.0, "| missed |"),
            (
                2.9,
                "| missed: the limit by itself is 1.07 of the goal, this 1.03 of the limit |",
            ),
        ] {
            results.writes = vec![crate::limits::Writes {
                frames_per_write: 1,
                sockets: 1_000,
                frames_per_second: 1.0,
                cpu_seconds_per_million: limit,
            }];
            let row = row_of(&table(&results), "| fan-out, one event");
            assert!(row.ends_with(verdict), "{row}");
        }
    }

    #[test]
    fn the_page_tells_of_runs_that_failed() {
        let about = About {
            machine: "this one".to_owned(),
            versions: vec!["1.0".to_owned()],
            conditions: Vec::new(),
        };
        let page = page(&about, &results(Counts::default()));
        let line = row_of(&page, "| Node seed | chat");
        assert!(
            line.contains("did not come to its end: it did not start"),
            "{line}"
        );
        assert!(page.contains("](benchmarks/chat.svg)") && !page.contains("storm.svg"));
    }
}
