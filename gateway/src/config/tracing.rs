//! The settings of traces, by the names that OpenTelemetry gives them everywhere.

use super::reader::Reader;
use super::settings;

/// Where traces go, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct TracingConfig {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    /// `OTEL_SERVICE_NAME`.
    pub service: String,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub sampler: Sampler,
}

/// Which traces are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// The share of them, 0 to 1.
    pub ratio: f64,
    /// Whether that is only for those that begin here, and others are as whoever began them has decided.
    pub heeds_parent: bool,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<TracingConfig> {
    let endpoint = reader.find(settings::OTEL_EXPORTER_OTLP_ENDPOINT, endpoint);
    let service = reader.get(settings::OTEL_SERVICE_NAME, |text| Ok(text.to_owned()));
    let (heeds_parent, kind) = reader.get(settings::OTEL_TRACES_SAMPLER, sampler);
    let share = reader.get(settings::OTEL_TRACES_SAMPLER_ARG, share);
    endpoint.map(|endpoint| TracingConfig {
        endpoint,
        service,
        sampler: Sampler {
            ratio: match kind {
                Kind::On => 1.0,
                Kind::Off => 0.0,
                Kind::Ratio => share,
            },
            heeds_parent,
        },
    })
}

#[derive(Clone, Copy)]
enum Kind {
    On,
    Off,
    Ratio,
}

fn endpoint(text: &str) -> Result<String, String> {
    let is_address = text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    if is_address {
        Ok(text.to_owned())
    } else {
        Err("must be an address such as http://collector:4318".to_owned())
    }
}

fn sampler(text: &str) -> Result<(bool, Kind), String> {
    let (heeds_parent, kind) = match text.strip_prefix("parentbased_") {
        Some(kind) => (true, kind),
        None => (false, text),
    };
    let kind =
        match kind {
            "always_on" => Kind::On,
            "always_off" => Kind::Off,
            "traceidratio" => Kind::Ratio,
            _ => return Err(
                "must be always_on, always_off or traceidratio, maybe with parentbased_ before it"
                    .to_owned(),
            ),
        };
    Ok((heeds_parent, kind))
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<TracingConfig>, Vec<&'static str>> {
        let values: BTreeMap<_, _> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Config::from_map(&values)
            .map(|config| config.tracing)
            .map_err(|error| error.names().collect())
    }

    #[test]
    fn there_are_no_traces_without_an_endpoint() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("OTEL_TRACES_SAMPLER", "always_on")]), Ok(None));
    }

    #[test]
    fn samplers_are_read_by_their_usual_names() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let sampler = |name, share| {
            let named = ("OTEL_TRACES_SAMPLER", name);
            let config = read(&[endpoint, named, ("OTEL_TRACES_SAMPLER_ARG", share)]);
            let Sampler {
                ratio,
                heeds_parent,
            } = config.unwrap().unwrap().sampler;
            (ratio, heeds_parent)
        };
        let plain = read(&[endpoint]).unwrap().unwrap();
        assert_eq!(
            (plain.service.as_str(), plain.sampler.ratio),
            ("chat-gateway", 1.0)
        );
        assert_eq!(sampler("parentbased_traceidratio", "0.25"), (0.25, true));
        assert_eq!(sampler("traceidratio", "0.5"), (0.5, false));
        assert_eq!(sampler("always_off", "0.5"), (0.0, false));
        assert_eq!(sampler("parentbased_always_on", "0.5"), (1.0, true));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ] {
            assert_eq!(read(&[(name, value)]), Err(vec![name]), "{value}");
        }
    }
}
