//! Where spans go, and under which name: the configuration, and where that is silent the standard variables of OpenTelemetry.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use protocol::config::{SecretUrl, TracesSection};

use super::client::CollectorClient;

/// Where a collector takes spans, below its own URL.
const PATH: &str = "v1/traces";
/// How long one request to the collector may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// A variable of this process.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A collector.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    url: String,
    /// Its URL for people.
    pub(super) shown: String,
    attributes: Vec<(String, String)>,
}

impl Target {
    /// `Ok(None)`: nobody asked for traces.
    ///
    /// # Errors
    /// What is named cannot be used, in words.
    pub(super) fn of(section: &TracesSection, variable: Variable<'_>) -> Result<Option<Self>, String> {
        let said = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let below = |url: &str| format!("{}/{PATH}", url.trim_end_matches('/'));
        let named = match &section.otlp_url {
            Some(url) => Some(("traces.otlp_url", below(url.reveal()))),
            None if said("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) => None,
            None => said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
                .map(|url| ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url))
                .or_else(|| said("OTEL_EXPORTER_OTLP_ENDPOINT").map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", below(&url)))),
        };
        let Some((name, url)) = named else { return Ok(None) };
        let shown = SecretUrl::new(url.as_str()).redacted();
        if !url.starts_with("http://") {
            return Err(format!("{name} is {shown:?}: spans are sent over plain HTTP only, so that it must begin with http://"));
        }
        Ok(Some(Self { url, shown, attributes: attributes(section, &said) }))
    }

    /// What sends spans there, once: what fails is dropped, since a second try would keep the next batch waiting.
    ///
    /// # Errors
    /// What of the URL or of the variables cannot be used.
    pub(super) fn exporter(&self) -> Result<SpanExporter, String> {
        let built = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&self.url)
            .with_timeout(ANSWERED_WITHIN)
            .with_retry_policy(RetryPolicy::disabled())
            .build();
        let mut exporter = built.map_err(|error| error.to_string())?;
        let attributes = self.attributes.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        exporter.set_resource(&Resource::builder_empty().with_attributes(attributes).build());
        Ok(exporter)
    }
}

/// What describes these programs in every trace; a name that is said explicitly wins.
fn attributes(section: &TracesSection, said: &dyn Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let listed = said("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let pairs = listed.split(',').filter_map(|pair| pair.split_once('='));
    let mut attributes: Vec<(String, String)> = pairs.map(|(name, value)| (name.trim().to_owned(), decoded(value.trim()))).collect();
    attributes.retain(|(name, _)| !name.is_empty());
    let listed_name = attributes.iter().position(|(name, _)| name == "service.name").map(|place| attributes.remove(place).1);
    let name = section.service_name.clone().or_else(|| said("OTEL_SERVICE_NAME")).or(listed_name);
    attributes.push(("service.name".to_owned(), name.unwrap_or_else(|| "gpufleet".to_owned())));
    attributes
}

/// Text in which `%2C` stands for a comma, and so on; what is no such pair of digits stands for itself.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let pair = after.get(..2).filter(|_| *first == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(section: &TracesSection, variables: &[(&str, &str)]) -> Result<Option<(String, Vec<String>)>, String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let shown = |target: Target| (target.url, target.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect());
        Target::of(section, &variable).map(|target| target.map(shown))
    }

    fn url(section: &TracesSection, variables: &[(&str, &str)]) -> Option<String> {
        target(section, variables).unwrap().map(|(url, _)| url)
    }

    #[test]
    fn the_configuration_comes_before_the_variables() {
        let section = TracesSection { otlp_url: Some(SecretUrl::new("http://c:4318/")), ..TracesSection::default() };
        let (general, own) = (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://g:1/x"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:2/y"));
        assert_eq!(url(&section, &[general, own]).as_deref(), Some("http://c:4318/v1/traces"));
        let silent = TracesSection::default();
        assert_eq!(url(&silent, &[general, own]).as_deref(), Some("http://t:2/y"), "it is the whole URL");
        assert_eq!(url(&silent, &[general]).as_deref(), Some("http://g:1/x/v1/traces"));
        assert_eq!(url(&silent, &[general, ("OTEL_SDK_DISABLED", "true")]), None);
        assert_eq!(url(&silent, &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), None);
        assert_eq!(url(&silent, &[]), None);
    }

    #[test]
    fn a_collector_behind_tls_is_refused_in_words_without_its_password() {
        let problem = target(&TracesSection::default(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:s3cret@c")]).unwrap_err();
        assert!(problem.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && problem.contains("http://") && !problem.contains("s3cret"), "{problem}");
    }

    #[test]
    fn a_name_that_is_said_explicitly_wins() {
        let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        let listed = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=listed, host.name=a%2Cb%,broken,=x");
        let attributes = |section: &TracesSection, variables: &[(&str, &str)]| target(section, variables).unwrap().unwrap().1;
        let silent = TracesSection::default();
        assert_eq!(attributes(&silent, &[on]), ["service.name=gpufleet"]);
        assert_eq!(attributes(&silent, &[on, listed]), ["host.name=a,b%", "service.name=listed"]);
        assert_eq!(attributes(&silent, &[on, listed, ("OTEL_SERVICE_NAME", "own")]), ["host.name=a,b%", "service.name=own"]);
        let configured = TracesSection { service_name: Some("ours".to_owned()), ..silent };
        assert_eq!(attributes(&configured, &[on, ("OTEL_SERVICE_NAME", "own")]), ["service.name=ours"]);
    }
}
