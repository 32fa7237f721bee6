//! Settings. The input is lines of `NAME=value`.

use std::collections::BTreeMap;

use gateway::config::{AppEnv, Config, MIN_SECRET_BYTES, Origins, SETTINGS};

/// Less could stand in a message or a default by chance.
const TELLING: usize = 8;

/// Settings are taken whole and within their bounds, or refused by name; secrets are never shown, either way.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let values: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let shown = match Config::from_map(&values) {
        Ok(config) => {
            within_bounds(&config);
            format!("{config:?}")
        }
        Err(error) => {
            let mut named = error.names().peekable();
            assert!(named.peek().is_some());
            for name in named {
                assert!(SETTINGS.iter().any(|setting| setting.name == name));
                assert!(error.to_string().contains(name));
            }
            error.to_string()
        }
    };
    for setting in SETTINGS.iter().filter(|setting| setting.secret) {
        let Some(value) = values.get(setting.name).map(|value| value.trim()) else {
            continue;
        };
        let elsewhere =
            |(name, other): (&String, &String)| *name != setting.name && other.contains(value);
        if value.len() >= TELLING && shown.contains(value) {
            let plain = format!("{:?}", Config::from_map(&BTreeMap::new()).unwrap());
            let by_chance = values.iter().any(elsewhere) || plain.contains(value);
            let words = SETTINGS.iter().any(|s| s.name.contains(value))
                || complaints(&values, setting.name).contains(value);
            assert!(by_chance || words, "{} is shown", setting.name);
        }
    }
}

/// What is complained of where one setting has some other wrong value.
fn complaints(values: &BTreeMap<String, String>, name: &str) -> String {
    let mut values = values.clone();
    values.insert(name.to_owned(), "?".to_owned());
    Config::from_map(&values)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

fn within_bounds(config: &Config) {
    assert!(config.ping_interval.as_millis() >= 100 && config.ping_timeout.as_millis() >= 100);
    assert!(config.ping_interval.as_secs() <= 86_400 && config.ping_timeout.as_secs() <= 86_400);
    assert!(config.drain.as_secs() <= 3_600);
    assert!((65_536..=1 << 30).contains(&config.outbox_bytes));
    assert!((1..=1000).contains(&config.database.pool_size));
    assert!(config.database.timeout.as_millis() >= 10);
    assert!(config.database.replica_url.is_none() || config.database.is_mysql());
    if let Some(redis) = &config.redis {
        assert!((1..=1000).contains(&redis.pool_size) && redis.timeout.as_millis() >= 10);
    }
    assert!(config.auth.refresh_life.as_secs() >= 86_400);
    let limits = config.limits;
    for limit in [
        limits.logins_per_minute,
        limits.requests_per_second,
        limits.events_per_second,
        limits.connects_per_second,
    ] {
        assert!(limit <= 1_000_000);
    }
    assert!(!config.local_address().0.is_empty());
    assert!(!config.data_directory().ends_with("chat.db"));
    if config.env == AppEnv::Production {
        let secret = config.auth.secret.as_ref().unwrap();
        assert!(secret.expose().len() >= MIN_SECRET_BYTES);
        assert!(config.origins != Origins::Any);
    }
    if let Origins::These(origins) = &config.origins {
        for origin in origins {
            assert!(config.origins.allow(origin));
            // What would look like a pattern, and let nobody in.
            assert!(
                !origin.contains([' ', ',', ';', '@', '*', '?', '%']),
                "{origin:?}"
            );
        }
    }
}
