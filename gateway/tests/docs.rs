//! What the documents say of the program, held against the program.

#![expect(clippy::unwrap_used, reason = "a test may")]

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
