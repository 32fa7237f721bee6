//! The program: reads its arguments and settings, and does what they say. Everything else is the library's.

use std::process::ExitCode;

use gateway::cli::{self, Command};
use gateway::config::{Config, EXIT_CONFIG};
use gateway::{app, telemetry};

fn main() -> ExitCode {
    let command = cli::parse();
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return complain(&error, EXIT_CONFIG),
    };
    if let Err(error) = telemetry::log::init(config.log_format, &config.log_filter) {
        return complain(&*error, 1);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, 1),
    };
    runtime
        .block_on(run(command, config))
        .unwrap_or_else(|error| complain(&*error, 1))
}

async fn run(command: Command, config: Config) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Serve => app::serve(config).await?,
        Command::Migrate => println!("{}", app::migrate(&config).await?),
        Command::CreateAdmin(arguments) => {
            let password = cli::read_password(std::io::stdin())?;
            println!(
                "{}",
                app::create_admin(&config, &arguments, &password).await?
            );
        }
        Command::RotateSecret(arguments) => cli::rotate_secret(&config, &arguments)?,
        Command::Archive(arguments) => {
            println!("{}", app::archive(&config, &arguments).await?);
        }
        Command::Backup(arguments) => println!("{}", app::backup(&config, &arguments).await?),
        Command::Restore(arguments) => println!("{}", app::restore(&config, &arguments).await?),
        Command::Optimize => println!("{}", app::optimize(&config).await?),
        Command::Doctor => {
            let (report, is_well) = app::doctor(&config).await;
            println!("{report}");
            if !is_well {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Health => cli::health(&config).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// On the standard error, in one line, whatever the log is set to.
fn complain(error: &(impl std::fmt::Display + ?Sized), status: u8) -> ExitCode {
    eprintln!("gateway: {error}");
    ExitCode::from(status)
}
