//! The `[telemetry]` table as it is written, and what is said of a file that cannot be read: the values of headers are secret.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::ConfigError;
use crate::telemetry::TelemetryConfig;

/// The table. Every field is optional; without an endpoint the others are of no use.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileTelemetry {
    otlp_endpoint: Option<String>,
    service_name: Option<String>,
    sample_ratio: Option<f64>,
    headers: Headers,
}

impl FileTelemetry {
    pub(super) fn apply(self, to: &mut Option<TelemetryConfig>) -> Result<(), ConfigError> {
        let mut config = match (&self.otlp_endpoint, to.take()) {
            (Some(endpoint), _) => TelemetryConfig::new(endpoint)?,
            (None, Some(config)) => config,
            (None, None) => {
                return self.given().map_or(Ok(()), |given| {
                    Err(ConfigError::Half { given, missing: "telemetry.otlp_endpoint" })
                });
            }
        };
        if let Some(name) = self.service_name {
            config.set_service_name(name)?;
        }
        if let Some(ratio) = self.sample_ratio {
            config.set_sample_ratio(ratio)?;
        }
        for (name, value) in &self.headers.0 {
            config.set_header(name, value)?;
        }
        *to = Some(config);
        Ok(())
    }

    /// A key that is there beside the endpoint.
    fn given(&self) -> Option<&'static str> {
        let keys = [
            ("telemetry.service_name", self.service_name.is_some()),
            ("telemetry.sample_ratio", self.sample_ratio.is_some()),
            ("telemetry.headers", !self.headers.0.is_empty()),
        ];
        keys.into_iter().find(|(_, given)| *given).map(|(key, _)| key)
    }
}

/// Names and values.
#[derive(Default)]
struct Headers(BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers, D::Error> {
        // Taken as whatever it is: what serde says of a wrong type repeats the value.
        let toml::Value::Table(table) = toml::Value::deserialize(deserializer)? else {
            return Err(D::Error::custom("the headers must be a table of names and strings"));
        };
        let headers = table.into_iter().map(|(name, value)| match value {
            toml::Value::String(value) => Ok((name, value)),
            _ => Err(D::Error::custom(format!("the value of the header \"{name}\" must be a string"))),
        });
        headers.collect::<Result<_, _>>().map(Headers)
    }
}

/// What is wrong with a file, and where. The line itself is not shown: it may hold the value of a header, whatever its key is called.
pub(super) fn complaint(text: &str, error: &toml::de::Error) -> String {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return error.message().to_owned();
    };
    let number = before.matches('\n').count();
    match text.lines().nth(number).and_then(key) {
        Some(key) => format!("line {}, {key}: {}", number + 1, error.message()),
        None => format!("line {}: {}", number + 1, error.message()),
    }
}

/// The key at the start of a line, if it looks like one of ours.
fn key(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    let ours = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
    (!key.is_empty() && key.len() <= 40 && key.chars().all(ours)).then_some(key)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn values_of_headers_are_in_no_error() {
        for wrong in [
            "headers = { a = \"hush\", b = 5 }",
            "headers = { a = \"hush }",
            "headers = \"hush\"",
            "headers = [\"hush\"]",
            "headers.a = \"hush\\nhush\"",
            "headers.a = \"hush\"\nheader = 1",
            "header = { a = \"hush\" }",
            "Headers.a = \"hush\"",
            "headers.a = \"hush\" \"b\"",
            "[telemetry.headers]\na = { hush = \"hush\" }",
        ] {
            let text = format!("[telemetry]\notlp_endpoint = \"http://x\"\n{wrong}\n");
            let mut config = Config::new("/nowhere", "/nowhere/agent");
            let error = config.apply_toml(&text).expect_err(wrong);
            assert!(!format!("{error} {error:?}").contains("hush"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_table_without_an_endpoint_is_a_mistake() {
        let mut config = Config::new("/nowhere", "/nowhere/agent");
        config.apply_toml("[telemetry]").expect("nothing asked for");
        assert_eq!(config.telemetry, None);
        let error = config.apply_toml("[telemetry.headers]\na = \"hush\"").expect_err("no endpoint");
        assert!(error.to_string().contains("telemetry.otlp_endpoint"), "{error}");
    }
}
