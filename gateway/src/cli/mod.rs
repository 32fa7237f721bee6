//! The command line: which commands there are and what they take. `health`, `create-admin` and `rotate-secret` are
//! done here; `serve` and
//! `migrate` are `app`'s.

mod admin;
mod archive;
mod backup;
mod health;
mod rotate;

pub use admin::{AdminArgs, create_admin, read_password};
pub use archive::ArchiveArgs;
pub use backup::{BackupArgs, RestoreArgs};
pub use health::{HealthError, health};
pub use rotate::{RotateArgs, RotateError, rotate_secret};

use clap::{Parser, Subcommand};

use crate::config;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Bring the database up to date unless AUTO_MIGRATE is false, then serve until SIGTERM (the default)
    Serve,
    /// Bring the database to this version's schema, adopting an existing one
    Migrate,
    /// Make an agency account
    CreateAdmin(AdminArgs),
    /// Tell how to change JWT_SECRET without logging anybody out, and make the settings of each step
    RotateSecret(RotateArgs),
    /// Move old messages out of the table that the chat works with; history still pages into them
    Archive(ArchiveArgs),
    /// Write the whole database into a file, while nodes serve
    Backup(BackupArgs),
    /// Put a backup into a database that no node is connected to
    Restore(RestoreArgs),
    /// Give back the room that deleted rows have left in the database
    Optimize,
    /// Look whether settings, database, Redis, clocks and limits are as they should be, and say how to mend what is not
    Doctor,
    /// Exit 0 if the node on this machine is ready
    Health,
}

#[derive(Debug, Parser)]
#[command(
    name = "gateway",
    version,
    about = "A chat gateway: one stateless node",
    after_help = config::help()
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

/// Reads this process's arguments. Ends the process by itself for `--help` and `--version` (status 0), and for arguments
/// that are none (status 2, with a message).
pub fn parse() -> Command {
    Arguments::parse().command.unwrap_or(Command::Serve)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(arguments: &[&str]) -> Result<Command, clap::Error> {
        Arguments::try_parse_from([&["gateway"], arguments].concat())
            .map(|arguments| arguments.command.unwrap_or(Command::Serve))
    }

    #[test]
    fn the_definition_holds() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn plain_gateway_serves() {
        assert_eq!(read(&[]).unwrap(), Command::Serve);
        assert_eq!(read(&["serve"]).unwrap(), Command::Serve);
        assert_eq!(read(&["migrate"]).unwrap(), Command::Migrate);
        assert_eq!(read(&["health"]).unwrap(), Command::Health);
        assert!(read(&["server"]).is_err());
    }

    #[test]
    fn an_admin_has_an_address_and_a_password_from_the_standard_input() {
        let arguments = [
            "create-admin",
            "--email",
            "a@b.co",
            "--password-stdin",
            "--first-name",
            "Ann",
        ];
        let Command::CreateAdmin(admin) = read(&arguments).unwrap() else {
            panic!("another command was read");
        };
        assert_eq!(admin.email, "a@b.co");
        assert_eq!(admin.first_name.as_deref(), Some("Ann"));
        assert_eq!(admin.last_name, None);
        assert!(read(&arguments[..3]).is_err());
        assert!(read(&["create-admin", "--password-stdin"]).is_err());
    }

    #[test]
    fn a_kid_may_begin_with_a_hyphen() {
        for step in [["switch", "--to"], ["finish", "--drop"]] {
            for kid in ["-2xQqPGE", "--xQqPGE", "3uXqQPGE"] {
                let arguments = ["rotate-secret", step[0], step[1], kid, "--out", "step.env"];
                let command = format!("{:?}", read(&arguments).unwrap());
                assert!(
                    command.contains(kid) && command.contains("step.env"),
                    "{command}"
                );
            }
        }
    }

    #[test]
    fn help_shows_every_setting() {
        for kind in ["--help", "-h"] {
            let help = read(&[kind]).unwrap_err().to_string();
            for setting in config::SETTINGS {
                assert!(help.contains(setting.name), "{}", setting.name);
                assert!(help.contains(setting.default.shown()), "{}", setting.name);
            }
            for command in [
                "serve",
                "migrate",
                "create-admin",
                "rotate-secret",
                "health",
                "archive",
                "backup",
                "restore",
                "optimize",
                "doctor",
            ] {
                assert!(help.contains(command), "{command}");
            }
        }
    }
}
