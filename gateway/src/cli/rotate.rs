//! `gateway rotate-secret`: a new signing secret takes the old one's place in three steps, between which every node is
//! restarted, and nobody is logged out. Keeps nothing: each step is worked out from the settings of the one before, so it is
//! run where those are set.
//!
//! Two steps before the new secret may sign, because nodes are not restarted all at once: a node that signs with it beside one
//! that has never heard of it would have its clients refused there.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::auth::{ACCESS_TOKEN_LIFE, key_id};
use crate::config::{Config, Secret, write_private};

/// The arguments of `rotate-secret`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RotateArgs {
    #[command(subcommand)]
    step: Option<Step>,
    /// How the settings of a step are written
    #[arg(long, value_enum, default_value_t = Format::Env, global = true)]
    format: Format,
    /// Write them to a new file that only its owner may read, instead of the standard output
    #[arg(long, value_name = "FILE", global = true)]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Step {
    /// Step 1: make a new secret, which every node is to accept before any signs with it
    Begin,
    /// Step 2: sign with the new secret, accept the old one as well
    Switch {
        /// The new secret's kid, as step 1 told it
        // A kid is base64url: one in 64 begins with a hyphen.
        #[arg(long, value_name = "KID", allow_hyphen_values = true)]
        to: String,
    },
    /// Step 3: accept the old secret no more
    Finish {
        /// The old secret's kid
        #[arg(long, value_name = "KID", allow_hyphen_values = true)]
        drop: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Two lines for an environment file: .env of Compose, EnvironmentFile= of systemd, a shell
    Env,
    /// A patch for `kubectl patch secret --patch-file`
    Kubernetes,
}

/// Why a step can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The file of development mode's own secret, or the one to write.
    #[error(transparent)]
    File(#[from] io::Error),
    /// No secret has that kid.
    #[error(
        "no secret of kid {0} is in JWT_PREVIOUS_SECRETS: are these the settings of the step before?"
    )]
    Unknown(String),
    /// It signs.
    #[error("the secret of kid {0} is JWT_SECRET, by which tokens are signed")]
    Signs(String),
    /// A list of secrets has no room for it.
    #[error(
        "JWT_SECRET holds a comma, or white space at an end, so it can't stand in JWT_PREVIOUS_SECRETS; change it in one step: \
             who is signed in refreshes its token, and where that fails signs in again"
    )]
    Unlistable,
}

/// What a node is to be started with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Secrets {
    signing: Secret,
    accepted: Vec<Secret>,
}

/// Writes a step's settings where the arguments say, and what to do with them on the standard error, where no secret is
/// shown. Without a step: what the settings of this environment are, and the way through all steps.
pub fn rotate_secret(config: &Config, arguments: &RotateArgs) -> Result<(), RotateError> {
    let current = Secrets {
        signing: config.jwt_secret()?,
        accepted: config.auth.previous_secrets.clone(),
    };
    let Some(step) = &arguments.step else {
        io::stdout().write_all(overview(&current).as_bytes())?;
        return Ok(());
    };
    let next = current.after(step, Secret::random)?;
    let text = next.written(arguments.format);
    match &arguments.out {
        Some(path) => write_private(path, &text).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?,
        None => io::stdout().write_all(text.as_bytes())?,
    }
    io::stderr().write_all(advice(step, &current, &next).as_bytes())?;
    Ok(())
}

impl Secrets {
    /// The settings that a step leads to.
    fn after(&self, step: &Step, make: impl FnOnce() -> Secret) -> Result<Self, RotateError> {
        let mut next = self.clone();
        match step {
            Step::Begin => next.accepted.insert(0, make()),
            Step::Switch { to } => {
                next.signing = next.take(to)?;
                let old = self.signing.expose();
                if old.contains(',') || old != old.trim() {
                    return Err(RotateError::Unlistable);
                }
                next.accepted.insert(0, self.signing.clone());
            }
            Step::Finish { drop } => {
                next.take(drop)?;
            }
        }
        Ok(next)
    }

    /// Takes a secret out of those that are only accepted.
    fn take(&mut self, kid: &str) -> Result<Secret, RotateError> {
        if key_id(&self.signing) == kid {
            return Err(RotateError::Signs(kid.to_owned()));
        }
        let place = self
            .accepted
            .iter()
            .position(|secret| key_id(secret) == kid);
        place
            .map(|place| self.accepted.remove(place))
            .ok_or_else(|| RotateError::Unknown(kid.to_owned()))
    }

    fn written(&self, format: Format) -> String {
        let accepted: Vec<_> = self.accepted.iter().map(Secret::expose).collect();
        let values = [
            ("JWT_SECRET", self.signing.expose().to_owned()),
            ("JWT_PREVIOUS_SECRETS", accepted.join(",")),
        ];
        match format {
            Format::Env => values
                .iter()
                .map(|(name, value)| format!("{name}={}\n", quoted(value)))
                .collect(),
            Format::Kubernetes => {
                let data: serde_json::Map<_, _> = values
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect();
                format!("{}\n", serde_json::json!({ "stringData": data }))
            }
        }
    }

    fn kids(&self) -> String {
        let accepted: Vec<_> = self.accepted.iter().map(key_id).collect();
        let accepted = if accepted.is_empty() {
            "no other".to_owned()
        } else {
            format!("{} as well", accepted.join(", "))
        };
        format!(
            "signs with kid {}, accepts {accepted}",
            key_id(&self.signing)
        )
    }
}

/// As a shell, Compose and systemd read it. What is made here needs no quotes, which `docker run --env-file` would keep.
fn quoted(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,+/=@%:".contains(&byte);
    if value.bytes().all(is_plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

fn minutes() -> u64 {
    ACCESS_TOKEN_LIFE.as_secs() / 60
}

fn overview(current: &Secrets) -> String {
    format!(
        "A node of these settings {}.\n\n\
         To change the signing secret so that nobody is logged out, with each command run where the settings of the step before hold:\n\n\
         1. gateway rotate-secret begin             every node accepts a new secret, and still signs with the old one\n\
         2. gateway rotate-secret switch --to NEW   every node signs with the new one, and still accepts the old one\n\
         3. gateway rotate-secret finish --drop OLD {} minutes later: the old one is accepted no more\n\n\
         Each writes JWT_SECRET and JWT_PREVIOUS_SECRETS (--format env or kubernetes; --out FILE instead of the standard output), and says\n\
         what comes next. After each, every node is restarted with them, one after the other, before the next step begins.\n",
        current.kids(),
        minutes()
    )
}

fn advice(step: &Step, current: &Secrets, next: &Secrets) -> String {
    let what = match step {
        Step::Begin => format!(
            "Step 1 of 3: restart every node with these settings, one after the other.\n\
             Only when the last one runs with them: gateway rotate-secret switch --to {}\n",
            next.accepted.first().map(key_id).unwrap_or_default()
        ),
        Step::Switch { .. } => format!(
            "Step 2 of 3: restart every node with these settings, one after the other.\n\
             {} minutes after the last one runs with them: gateway rotate-secret finish --drop {}\n\
             Should something be wrong, the way back is the settings of step 1.\n",
            minutes(),
            key_id(&current.signing)
        ),
        Step::Finish { .. } => format!(
            "Step 3 of 3: restart every node with these settings, if it is {} minutes since the last one ran without step 2's.\n",
            minutes()
        ),
    };
    format!("{what}A node of these settings {}.\n", next.kids())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(signing: &str, accepted: &[&str]) -> Secrets {
        Secrets {
            signing: Secret::new(signing),
            accepted: accepted.iter().copied().map(Secret::new).collect(),
        }
    }

    fn kid(secret: &str) -> String {
        key_id(&Secret::new(secret))
    }

    fn step(from: &Secrets, step: &Step) -> Result<Secrets, RotateError> {
        from.after(step, || Secret::new("new"))
    }

    #[test]
    fn three_steps_change_the_secret_and_leave_the_old_systems() {
        let begun = step(&secrets("old", &["legacy"]), &Step::Begin).unwrap();
        assert_eq!(begun, secrets("old", &["new", "legacy"]));
        let switched = step(&begun, &Step::Switch { to: kid("new") }).unwrap();
        assert_eq!(switched, secrets("new", &["old", "legacy"]));
        let finished = step(&switched, &Step::Finish { drop: kid("old") }).unwrap();
        assert_eq!(finished, secrets("new", &["legacy"]));
    }

    #[test]
    fn a_step_out_of_order_is_refused() {
        let current = secrets("old", &["new"]);
        let switch = |to: &str| step(&current, &Step::Switch { to: kid(to) });
        assert!(matches!(switch("other"), Err(RotateError::Unknown(_))));
        // Run a second time, where the first run's settings hold.
        assert!(matches!(switch("old"), Err(RotateError::Signs(_))));
        let finish = step(&current, &Step::Finish { drop: kid("old") });
        assert!(matches!(finish, Err(RotateError::Signs(_))));
    }

    #[test]
    fn a_secret_that_a_list_would_break_is_refused() {
        for signing in ["a,b", " a"] {
            let outcome = step(
                &secrets(signing, &["new"]),
                &Step::Switch { to: kid("new") },
            );
            assert!(matches!(outcome, Err(RotateError::Unlistable)), "{signing}");
        }
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        let secrets = secrets("it's $old", &["new", "legacy"]);
        assert_eq!(
            secrets.written(Format::Env),
            "JWT_SECRET='it'\\''s $old'\nJWT_PREVIOUS_SECRETS=new,legacy\n"
        );
        let patch: serde_json::Value =
            serde_json::from_str(&secrets.written(Format::Kubernetes)).unwrap();
        assert_eq!(
            patch,
            serde_json::json!({"stringData": {"JWT_SECRET": "it's $old", "JWT_PREVIOUS_SECRETS": "new,legacy"}})
        );
        let made = Secret::random();
        assert_eq!(quoted(made.expose()), made.expose());
    }

    #[test]
    fn what_is_said_shows_no_secret() {
        let current = secrets("old-secret", &["new-secret"]);
        let switch = Step::Switch {
            to: kid("new-secret"),
        };
        let next = step(&current, &switch).unwrap();
        for text in [
            overview(&current),
            advice(&switch, &current, &next),
            advice(&Step::Begin, &current, &current),
        ] {
            assert!(
                !text.contains("old-secret") && !text.contains("new-secret"),
                "{text}"
            );
        }
        assert!(advice(&switch, &current, &next).contains(&kid("old-secret")));
    }
}
