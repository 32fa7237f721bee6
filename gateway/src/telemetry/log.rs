//! Where log lines go and how they look. Never logged, by anybody: tokens, passwords, secrets, database addresses with
//! their passwords, and the text of messages.

use std::io::{self, IsTerminal};

use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, parse_log_filter};

/// What holds beside the settings' directives, unless they name the same target.
const QUIET: &str = "sqlx=error";

/// Sets up this process's log, on the standard error: the standard output is for what a command answers. Fails where the
/// directives are none, or a log was set up before.
pub fn init(
    format: LogFormat,
    directives: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // What the pool says of its connections is told by the calls that fail, in our words; whoever wants both can ask.
    let filter = parse_log_filter(&format!("{QUIET},{directives}"))?;
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Pretty => builder
            .with_ansi(io::stderr().is_terminal())
            .finish()
            .try_init()?,
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish()
            .try_init()?,
    }
    Ok(())
}
