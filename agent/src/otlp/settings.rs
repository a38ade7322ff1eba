//! What an operator says about sending: where, how often, with which headers. Sends nothing.

use std::fmt;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::{Signal, Trust};
use crate::config::duration_within;

/// The environment variable of headers, one a line.
pub const HEADERS_VARIABLE: &str = "SEGUE_OTLP_HEADERS";

/// Where, how often, with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where metrics are sent.
    pub endpoint: Endpoint,
    /// How often.
    pub interval: Duration,
    /// Headers of each request, besides those it has by itself.
    pub headers: Vec<Header>,
    /// Whom to trust, where the endpoint speaks TLS.
    pub trust: Option<Trust>,
    /// Which spans are sent as well; `None`: no spans.
    pub traces: Option<Tracing>,
}

/// Of which requests spans are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracing {
    /// The share of all requests, more than 0, up to 1.
    pub share: f64,
    /// Spans have the path of their request.
    pub with_paths: bool,
}

/// The URL below which everything is sent. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    host: String,
}

impl Endpoint {
    /// The receiver's URL, without `/v1/metrics` and the like.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANTED: &str = "write http://HOST:PORT or https://HOST:PORT, as in http://collector:4318";
        let base = text.trim_end_matches('/');
        let uri: Uri = format!("{base}/").parse().map_err(|error| format!("{error}; {WANTED}"))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            _ => return Err(WANTED.to_owned()),
        }
        let authority = uri.authority().ok_or(WANTED)?;
        if authority.as_str().contains('@') {
            return Err("user and password do not belong here; give --otlp-header authorization=…".to_owned());
        }
        if uri.query().is_some() {
            return Err("it has no query".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(WANTED.to_owned());
        }
        Ok(Self { uri, host })
    }

    /// Name or address, and port, to connect to.
    pub(super) fn target(&self) -> (&str, u16) {
        (&self.host, self.uri.port_u16().unwrap_or(if self.is_secret() { 443 } else { 80 }))
    }

    /// Whether it speaks TLS.
    pub fn is_secret(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// The path to post to.
    pub(super) fn path(&self, signal: Signal) -> String {
        format!("{}v1/{}", self.uri.path(), signal.name())
    }

    /// Where that is, in full.
    pub(super) fn url(&self, signal: Signal) -> String {
        format!("{}v1/{}", self.uri, signal.name())
    }
}

/// A header. Its value is shown nowhere.
#[derive(Clone)]
pub struct Header {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
}

impl Header {
    /// `NAME=VALUE`.
    ///
    /// # Errors
    /// What is wrong with it, without the value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
        let name: HeaderName = name.trim().parse().map_err(|_| "the name is none of a header".to_owned())?;
        if ["host", "content-type", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            return Err(format!("{name} is set by the agent"));
        }
        let mut value: HeaderValue =
            value.trim().parse().map_err(|_| format!("the value of {name} has characters no header has"))?;
        value.set_sensitive(true);
        Ok(Self { name, value })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}=…", self.name)
    }
}

/// How often metrics are sent: a duration as in the configuration.
///
/// # Errors
/// It is none, or out of range.
pub fn interval(text: &str) -> Result<Duration, String> {
    duration_within(text, &(Duration::from_secs(1)..=Duration::from_secs(3_600)), "15s")
}

/// A share of requests as people write it: `1%`, `0.5%`, `100%`, or a number from 0 to 1.
///
/// # Errors
/// It is none, or out of range.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text.trim(), 1.0),
    };
    let share = number.parse::<f64>().ok().map(|number| number / whole);
    share
        .filter(|share| *share > 0.0 && *share <= 1.0)
        .ok_or_else(|| "give a share of all requests: more than 0, up to 100%, as in 1% or 0.01".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_written_in_percent_or_as_a_number() {
        for (text, expected) in [("1%", 0.01), ("0.01", 0.01), ("100%", 1.0), ("1", 1.0), ("0.5 %", 0.005)] {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for wrong in ["", "%", "0", "0%", "101%", "1.5", "-1%", "nan", "inf", "one"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_the_base_of_a_path() {
        for (text, target, path) in [
            ("http://collector:4318", ("collector", 4318), "/v1/metrics"),
            ("http://collector/", ("collector", 80), "/v1/metrics"),
            ("http://10.0.0.1:9090/api/v1/otlp", ("10.0.0.1", 9090), "/api/v1/otlp/v1/metrics"),
            ("https://collector", ("collector", 443), "/v1/metrics"),
            ("http://[fd00::1]:4318", ("fd00::1", 4318), "/v1/metrics"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            let sent_to = endpoint.path(Signal::Metrics);
            assert_eq!((endpoint.target(), &sent_to[..]), (target, path), "{text}");
        }
        let endpoint = Endpoint::parse("http://collector:4318/").expect("a URL");
        assert_eq!(endpoint.url(Signal::Traces), "http://collector:4318/v1/traces");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["", "collector:4318", "https://", "http://u:p@c", "http://c?x=1", "http://", "ftp://c"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_value_of_a_header_is_not_shown() {
        let header = Header::parse("Authorization=Bearer a=b").expect("a header");
        assert_eq!(header.value.as_bytes(), b"Bearer a=b");
        assert_eq!(format!("{header:?} {:?}", header.value), "authorization=… Sensitive");
        for text in ["secret", "na me=secret", "host=secret", "x=sec\u{1}ret"] {
            let error = Header::parse(text).expect_err(text);
            assert!(!error.contains("sec"), "{error}");
        }
    }
}
