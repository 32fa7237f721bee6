//! `gateway archive`: what it takes. Moving is the store's to do.

use std::time::Duration;

use clap::Args;

/// The arguments of `archive`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ArchiveArgs {
    /// How old a message must be: a number with h (hours), d (days) or w (weeks), such as 30d
    #[arg(long, value_parser = age)]
    pub older_than: Duration,
    /// Only say how much would move
    #[arg(long)]
    pub dry_run: bool,
    /// The most messages of one transaction
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
}

/// Reads `30d`.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number with h, d or w, such as 30d".to_owned();
    let hours = match text.chars().last() {
        Some('h') => 1,
        Some('d') => 24,
        Some('w') => 24 * 7,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number == 0 {
        return Err(wrong());
    }
    Ok(Duration::from_secs(u64::from(number) * hours * 60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        let hours = |hours: u64| Ok(Duration::from_secs(hours * 60 * 60));
        assert_eq!(age("12h"), hours(12));
        assert_eq!(age("30d"), hours(720));
        assert_eq!(age("2w"), hours(336));
        for wrong in ["", "d", "30", "0d", "-1d", "1.5d", "30 d", "30é"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
