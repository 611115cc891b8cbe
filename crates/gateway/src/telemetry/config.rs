//! Where traces go. What is wrong is said at the start, without the values of headers, which are secret.

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// What OTLP by HTTP adds to an endpoint for traces.
const TRACES: &str = "/v1/traces";
/// Longest name of a service, in bytes.
const MAX_NAME: usize = 255;

/// The `[telemetry]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryConfig {
    /// Where spans are posted: the endpoint with the path for traces.
    pub(super) url: Url,
    pub(super) service_name: String,
    pub(super) sample_ratio: f64,
    /// Sent with each request. Their values are marked as sensitive, so that `Debug` does not show them.
    pub(super) headers: HeaderMap,
}

impl TelemetryConfig {
    /// Every connection, under the name `sandgate`, to the endpoint of a collector, such as `http://127.0.0.1:4318`.
    ///
    /// # Errors
    /// It is no address by http or https, or has more in it than host, port and path.
    pub fn new(endpoint: &str) -> Result<TelemetryConfig, InvalidTelemetry> {
        // What is there is not repeated: somebody may have written a password into it.
        let url = Url::parse(endpoint).map_err(|_| InvalidTelemetry::Endpoint)?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidTelemetry::Endpoint);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTelemetry::Login);
        }
        let url = format!("{}{TRACES}", url.as_str().trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|_| InvalidTelemetry::Endpoint)?;
        Ok(TelemetryConfig {
            url,
            service_name: "sandgate".to_owned(),
            sample_ratio: 1.0,
            headers: HeaderMap::new(),
        })
    }

    /// The `service.name` of all spans.
    ///
    /// # Errors
    /// It is empty, too long or not plain text.
    pub fn set_service_name(&mut self, name: String) -> Result<(), InvalidTelemetry> {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(InvalidTelemetry::ServiceName);
        }
        self.service_name = name;
        Ok(())
    }

    /// The part of all connections that is traced, from 0 to 1.
    ///
    /// # Errors
    /// It is less or more.
    pub fn set_sample_ratio(&mut self, ratio: f64) -> Result<(), InvalidTelemetry> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(InvalidTelemetry::SampleRatio);
        }
        self.sample_ratio = ratio;
        Ok(())
    }

    /// Sends this header with each request.
    ///
    /// # Errors
    /// HTTP has no such header.
    pub fn set_header(&mut self, name: &str, value: &str) -> Result<(), InvalidTelemetry> {
        let header: HeaderName = name.parse().map_err(|_| InvalidTelemetry::HeaderName(name.to_owned()))?;
        let mut value: HeaderValue =
            value.parse().map_err(|_| InvalidTelemetry::HeaderValue(name.to_owned()))?;
        value.set_sensitive(true);
        self.headers.insert(header, value);
        Ok(())
    }
}

/// What is wrong in the `[telemetry]` table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTelemetry {
    /// The endpoint.
    #[error("telemetry.otlp_endpoint must be an address by http or https, such as http://127.0.0.1:4318")]
    Endpoint,
    /// A secret in the endpoint.
    #[error("telemetry.otlp_endpoint must not hold a login; give it in telemetry.headers")]
    Login,
    /// The name.
    #[error("telemetry.service_name must be 1 to {} bytes of plain text", MAX_NAME)]
    ServiceName,
    /// The ratio.
    #[error("telemetry.sample_ratio must be a number from 0 to 1")]
    SampleRatio,
    /// A header's name.
    #[error("telemetry.headers: \"{0}\" cannot be the name of a header")]
    HeaderName(String),
    /// A header's value, which is not shown.
    #[error("telemetry.headers: the value of \"{0}\" cannot be sent in a header")]
    HeaderValue(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_have_a_path_of_their_own() {
        for (endpoint, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector.example/otlp/", "https://collector.example/otlp/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(TelemetryConfig::new(endpoint).expect(endpoint).url.as_str(), url);
        }
    }

    #[test]
    fn endpoints_that_are_none_are_refused_and_not_repeated() {
        for endpoint in
            ["", "127.0.0.1:4318", "grpc://x:4317", "http://", "http://x/?key=hush", "http://x/#hush"]
        {
            assert_eq!(TelemetryConfig::new(endpoint), Err(InvalidTelemetry::Endpoint), "{endpoint}");
        }
        for endpoint in ["http://me:hush@x", "http://hush@x"] {
            let error = TelemetryConfig::new(endpoint).expect_err(endpoint);
            assert_eq!(error, InvalidTelemetry::Login);
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn values_of_headers_are_never_shown() {
        let mut config = TelemetryConfig::new("http://x").expect("an endpoint");
        config.set_header("X-Api-Key", "hush").expect("a header");
        let shown = format!("{config:?} {config:#?}");
        assert!(shown.contains("x-api-key") && !shown.contains("hush"), "{shown}");
        let error = config.set_header("x", "hush\nhush").expect_err("two lines");
        assert!(!error.to_string().contains("hush"), "{error}");
        assert_eq!(config.set_header("a b", ""), Err(InvalidTelemetry::HeaderName("a b".to_owned())));
    }

    #[test]
    fn a_ratio_is_a_part() {
        let mut config = TelemetryConfig::new("http://x").expect("an endpoint");
        for ratio in [0.0, 0.25, 1.0] {
            assert_eq!(config.set_sample_ratio(ratio), Ok(()));
        }
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(config.set_sample_ratio(ratio), Err(InvalidTelemetry::SampleRatio), "{ratio}");
        }
        assert_eq!(config.set_service_name(String::new()), Err(InvalidTelemetry::ServiceName));
        assert_eq!(config.set_service_name("a\nb".to_owned()), Err(InvalidTelemetry::ServiceName));
    }
}
