//! What the documents say of the program, held against the program.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::path::Path;

use gateway::config::SETTINGS;
use shared::ErrorCode;
use shared::{command, event};

fn read(name: &str) -> String {
    let path = format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_readme_lists_every_setting_as_help_does() {
    let readme = read("README.md");
    let begin = readme.find("<!-- settings").unwrap();
    let table = &readme[begin..readme.find("<!-- /settings -->").unwrap()];
    let listed: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let wanted: Vec<_> = SETTINGS
        .iter()
        .map(|setting| {
            let default = setting.default.shown();
            format!("| `{}` | {default} | {} |", setting.name, setting.help)
        })
        .collect();
    assert_eq!(listed, wanted);
}

#[test]
fn the_metrics_page_is_the_table() {
    let page = read("docs/metrics.md");
    let begin = page.find("| metric |").unwrap();
    let table = &page[begin..];
    let end = table.find("\n\n").map_or(table.len(), |end| end + 1);
    let wanted = gateway::telemetry::metrics::page_table();
    // What to put into the page.
    assert!(
        table[..end] == wanted,
        "docs/metrics.md should have:\n{wanted}"
    );
}

#[test]
fn the_events_page_names_every_event_and_every_code_of_sockets() {
    let page = read("docs/events.md");
    for name in command::name::ALL.iter().chain(event::name::ALL) {
        assert!(
            page.contains(&format!("| `{name}`")) || page.contains(&format!(", `{name}`")),
            "{name}"
        );
    }
    // What only REST answers.
    let rest_only = [
        ErrorCode::InvalidCredentials,
        ErrorCode::UserNotFound,
        ErrorCode::NotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::PayloadTooLarge,
        ErrorCode::UnsupportedMediaType,
        ErrorCode::EmailTaken,
        ErrorCode::NoAgent,
        ErrorCode::Conflict,
    ];
    for code in ErrorCode::ALL {
        assert_eq!(
            page.contains(&format!("`{code}`")),
            !rest_only.contains(&code),
            "{code}"
        );
    }
}

#[test]
fn a_module_looks_only_at_those_above_it() {
    // The rows between the table of layers and the next heading: module names stand in the second column.
    let page = read("ARCHITECTURE.md");
    let begin = page.find("| layer |").unwrap();
    let table = &page[begin..begin + page[begin..].find("\n\n").unwrap()];
    let modules: Vec<_> = table
        .lines()
        .filter_map(|line| line.split('|').nth(2))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for entry in std::fs::read_dir(&sources).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        if module == "lib" {
            continue;
        }
        let place = modules.iter().position(|known| *known == module);
        let above = &modules[..=place.unwrap_or_else(|| panic!("{module} has no layer"))];
        for used in crate_paths(&path) {
            assert!(above.contains(&&*used), "{module} looks at {used}");
        }
        seen += 1;
    }
    assert!(seen > 10);
}

/// The first names of all `crate::` paths in a file, or in the files of a folder.
fn crate_paths(path: &Path) -> Vec<String> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        return entries
            .flat_map(|entry| crate_paths(&entry.unwrap().path()))
            .collect();
    }
    if path.extension().is_none_or(|extension| extension != "rs") {
        return Vec::new();
    }
    let text = std::fs::read_to_string(path).unwrap();
    text.match_indices("crate::")
        .map(|(at, prefix)| {
            let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
            let rest = &text[at + prefix.len()..];
            rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())].to_owned()
        })
        .collect()
}
