//! Single values: text in, a value or a sentence out that says what is wrong and what to write. Knows no place
//! and no other value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use agent_ebpf::abi::{Algorithm, BreakerMode, Protocol};

use super::problem::Quoted;

/// The weight of a backend.
pub(super) const WEIGHTS: RangeInclusive<u16> = 0..=1_000;
/// The weight of a backend that does not say one.
pub(super) const DEFAULT_WEIGHT: u16 = 1;
/// The share of a version. The bound keeps sums of shares far from overflow.
pub(super) const SHARES: RangeInclusive<u32> = 0..=1_000_000;
/// How long a client keeps its backend.
pub(super) const AFFINITY_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// How long a handshake may take.
pub(super) const CONNECT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(2 * 60);
/// How long the share of a backend that joined or came back may take to grow.
pub(super) const SLOW_START: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3_600);
/// The namespace of Segue's own services, among them the one of its test connection.
pub(super) const OWN_NAMESPACE: &str = "segue";
/// Characters of a DNS label, and of a zone or version.
pub(super) const MAX_LABEL: usize = 63;

/// What an application's `connect()` fails with where nothing is usable. A closed list: errors that programs
/// know from a network without Segue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefuseWith {
    Ehostunreach,
    Econnrefused,
    Enetunreach,
    Etimedout,
    Eperm,
    Eacces,
    Eagain,
}

impl RefuseWith {
    pub(super) const ALL: &'static [Self] = &[
        Self::Ehostunreach,
        Self::Econnrefused,
        Self::Enetunreach,
        Self::Etimedout,
        Self::Eperm,
        Self::Eacces,
        Self::Eagain,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ehostunreach => "EHOSTUNREACH",
            Self::Econnrefused => "ECONNREFUSED",
            Self::Enetunreach => "ENETUNREACH",
            Self::Etimedout => "ETIMEDOUT",
            Self::Eperm => "EPERM",
            Self::Eacces => "EACCES",
            Self::Eagain => "EAGAIN",
        }
    }

    pub(super) fn errno(self) -> u8 {
        let errno = match self {
            Self::Ehostunreach => libc::EHOSTUNREACH,
            Self::Econnrefused => libc::ECONNREFUSED,
            Self::Enetunreach => libc::ENETUNREACH,
            Self::Etimedout => libc::ETIMEDOUT,
            Self::Eperm => libc::EPERM,
            Self::Eacces => libc::EACCES,
            Self::Eagain => libc::EAGAIN,
        };
        u8::try_from(errno).expect("these errno values are below 256 on every Linux architecture")
    }
}

pub(super) fn refuse_with(text: &str) -> Result<RefuseWith, String> {
    let known = RefuseWith::ALL;
    known.iter().copied().find(|value| value.name() == text).ok_or_else(|| unknown(text, known, |v| v.name()))
}

pub(super) fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(text).ok_or_else(|| unknown(text, Algorithm::ALL, |value| value.name()))
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::from_name(text).ok_or_else(|| unknown(text, Protocol::ALL, |value| value.name()))
}

/// Whether the node's own zone is preferred.
pub(super) fn locality(text: &str) -> Result<bool, String> {
    match text {
        "any" => Ok(false),
        "prefer_zone" => Ok(true),
        _ => Err(format!("\"{text}\" is unknown; known are any, prefer_zone")),
    }
}

/// Whether requests are read.
pub(super) fn requests(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("\"{text}\" is unknown; known are auto, off")),
    }
}

/// How long a share grows.
pub(super) fn slow_start(text: &str) -> Result<Duration, String> {
    duration_within(text, &SLOW_START, "10s")
}

pub(super) fn breaker_mode(text: &str) -> Result<BreakerMode, String> {
    BreakerMode::from_name(text).ok_or_else(|| unknown(text, BreakerMode::ALL, |value| value.name()))
}

/// What is said of a name that is none of `known`.
pub(super) fn unknown<T: Copy>(text: &str, known: &[T], name: impl Fn(T) -> &'static str) -> String {
    format!("{} is not known; write one of {}", Quoted(text), names(known, name))
}

/// Names in a sentence.
pub(super) fn names<T: Copy>(values: &[T], name: impl Fn(T) -> &'static str) -> String {
    values.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", ")
}

/// `name` or `namespace/name`, each a DNS label, and not in [`OWN_NAMESPACE`].
pub(super) fn service_name(text: &str) -> Result<(), String> {
    let mut parts = text.split('/');
    if parts.clone().count() > 2 {
        return Err(format!("{} has more than one \"/\"; write \"namespace/name\"", Quoted(text)));
    }
    if text.split_once('/').is_some_and(|(namespace, _)| namespace == OWN_NAMESPACE) {
        return Err(format!(
            "{} is in the namespace \"{OWN_NAMESPACE}\", which is kept for Segue's own services; choose another \
             namespace",
            Quoted(text)
        ));
    }
    match parts.all(is_dns_label) {
        true => Ok(()),
        false => Err(format!(
            "{} is not a name; write \"name\" or \"namespace/name\", each 1 to {MAX_LABEL} lower-case letters, \
             digits and \"-\", with a letter or digit at both ends",
            Quoted(text)
        )),
    }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A zone or a version: a label that metrics can carry.
pub(super) fn label(text: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(inner) {
        true => Ok(()),
        false => Err(format!(
            "{} cannot be used; write 1 to {MAX_LABEL} letters, digits, \"-\", \"_\" and \".\"",
            Quoted(text)
        )),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("is {}; write true or false", Quoted(text))),
    }
}

pub(super) fn weight(text: &str) -> Result<u16, String> {
    number(text, &WEIGHTS)
}

pub(super) fn share(text: &str) -> Result<u32, String> {
    number(text, &SHARES)
}

/// A part in percent, `50%` or `50`.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    number(digits, &(0..=100)).map_err(|_| {
        format!("is {}; write a whole number of percent from 0% to 100%, as in 50%", Quoted(text))
    })
}

/// A multiple, `1.5x` or `2x`, in percent: at most two digits after the point.
pub(super) fn factor(text: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let percent = || -> Option<u32> {
        let (whole, part) = text.strip_suffix('x')?.split_once('.').unwrap_or((text.strip_suffix('x')?, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 2 {
            return None;
        }
        let hundredths: u32 = format!("{part:0<2}").parse().ok()?;
        whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)
    };
    percent().filter(|percent| range.contains(percent)).ok_or_else(|| {
        let [from, to] = [*range.start(), *range.end()].map(|percent| f64::from(percent) / 100.0);
        format!("is {}; write a multiple from {from}x to {to}x, as in 1.5x", Quoted(text))
    })
}

/// A whole number in plain digits.
pub(super) fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    range: &RangeInclusive<T>,
) -> Result<T, String> {
    // `parse` takes "+1", which nobody writes on purpose.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(value) if digits && range.contains(&value) => Ok(value),
        _ => Err(format!(
            "is {}; write a whole number from {} to {}",
            Quoted(text),
            range.start(),
            range.end()
        )),
    }
}

/// How long a client keeps its backend: a whole number and a unit, within [`AFFINITY_TIMEOUT`].
pub(super) fn affinity_timeout(text: &str) -> Result<Duration, String> {
    duration_within(text, &AFFINITY_TIMEOUT, "10m")
}

/// How long a handshake may take: within [`CONNECT_TIMEOUT`].
pub(super) fn connect_timeout(text: &str) -> Result<Duration, String> {
    duration_within(text, &CONNECT_TIMEOUT, "2s")
}

/// A whole number and a unit, within a range.
pub(crate) fn duration_within(
    text: &str,
    range: &RangeInclusive<Duration>,
    example: &str,
) -> Result<Duration, String> {
    let wanted = format!(
        "write a whole number with ms, s, m or h, from {} to {}, as in {example}",
        show_duration(*range.start()),
        show_duration(*range.end())
    );
    match duration(text) {
        Some(value) if range.contains(&value) => Ok(value),
        Some(_) => Err(format!("is {}, which is out of range; {wanted}", Quoted(text))),
        None => Err(format!("is {}, which is not a duration; {wanted}", Quoted(text))),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    let number: u64 = digits.parse().ok()?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// A duration in the largest unit that says it exactly.
pub(super) fn show_duration(value: Duration) -> String {
    let ms = value.as_millis();
    match ms {
        _ if ms > 0 && ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms > 0 && ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// An address with a port that one server can have: not unspecified, not multicast, not mapped.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let endpoint: SocketAddr = text.parse().map_err(|_| why_no_endpoint(text))?;
    let quoted = Quoted(text);
    if let SocketAddr::V6(v6) = endpoint {
        if v6.scope_id() != 0 {
            return Err(format!(
                "{quoted} names an interface; write the address without \"%\" and what follows"
            ));
        }
        if let Some(v4) = v6.ip().to_ipv4_mapped() {
            return Err(format!("{quoted} is an IPv4 address; write \"{v4}:{}\"", v6.port()));
        }
    }
    if endpoint.port() == 0 {
        return Err(format!("{quoted} has port 0; write a port from 1 to 65535"));
    }
    let ip = endpoint.ip();
    if ip.is_unspecified() {
        return Err(format!("{quoted} is the unspecified address; write the address of one host or service"));
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(format!(
            "{quoted} is a multicast or broadcast address; write the address of one host or service"
        ));
    }
    Ok(endpoint)
}

fn why_no_endpoint(text: &str) -> String {
    let quoted = Quoted(text);
    if text.is_empty() {
        return "is empty; write an address and a port, as in \"10.0.0.1:80\"".into();
    }
    if let Some(meant) = with_brackets(text) {
        return format!("{quoted} is an IPv6 address without brackets; write \"{meant}\"");
    }
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return format!("{quoted} has no port; write the port after it, as in \"{v4}:80\"");
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        return match bracketed.map(str::parse::<Ipv6Addr>) {
            Some(Ok(v6)) => format!("{quoted} has no port; write the port after it, as in \"[{v6}]:80\""),
            _ => format!("{quoted} is not an address and a port; write both, as in \"10.0.0.1:80\""),
        };
    };
    if port.parse::<u16>().is_err() {
        return match text.starts_with('[') && text.ends_with(']') {
            true => {
                format!("{quoted} has no port; write the port after the brackets, as in \"[fd00::1]:80\"")
            }
            false => format!("{quoted} has no usable port; write a port from 1 to 65535"),
        };
    }
    let numeric = host.starts_with('[') || host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match numeric || host.contains([':', '/', ' ']) {
        true => {
            format!("{quoted} is not a valid IP address; write one as in \"10.0.0.1:80\" or \"[fd00::1]:80\"")
        }
        false => format!("{quoted} has a host name; write its IP address, names are not looked up"),
    }
}

/// What an IPv6 address without brackets most likely means: its last part as port where that leaves an address.
fn with_brackets(text: &str) -> Option<String> {
    if let Some((host, port)) = text.rsplit_once(':')
        && let (Ok(ip), Ok(1..)) = (host.parse::<Ipv6Addr>(), port.parse::<u16>())
    {
        return Some(format!("[{ip}]:{port}"));
    }
    text.parse::<Ipv6Addr>().ok().map(|ip| format!("[{ip}]:80"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        endpoint(text).expect_err(text)
    }

    #[test]
    fn an_endpoint_is_an_address_and_a_port() {
        assert_eq!(endpoint("127.0.0.1:8081"), Ok("127.0.0.1:8081".parse().unwrap()));
        assert_eq!(endpoint("[fd00:5e::10]:80"), Ok("[fd00:5e::10]:80".parse().unwrap()));
    }

    #[test]
    fn each_wrong_endpoint_is_told_apart() {
        for (text, wanted) in [
            ("", "is empty"),
            ("10.0.0.1", "has no port; write the port after it, as in \"10.0.0.1:80\""),
            ("[fd00::1]", "has no port"),
            ("10.0.0.1:0", "port 0"),
            ("10.0.0.1:65536", "a port from 1 to 65535"),
            ("10.0.0.1:http", "a port from 1 to 65535"),
            ("10.0.0.256:80", "not a valid IP address"),
            ("[fd00::g]:80", "not a valid IP address"),
            ("http://10.0.0.1:80", "not a valid IP address"),
            ("fd00:5e::10:80", "write \"[fd00:5e::10]:80\""),
            ("::1", "write \"[::1]:80\""),
            ("fd00:1:2:3:4:5:6:7", "write \"[fd00:1:2:3:4:5:6:7]:80\""),
            ("payment:80", "host name"),
            ("payment.shop.svc:80", "host name"),
            ("payment", "not an address and a port"),
            (":80", "not an address and a port"),
            ("0.0.0.0:80", "unspecified"),
            ("[::]:80", "unspecified"),
            ("224.0.0.1:80", "multicast"),
            ("[ff02::1]:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
            ("[::ffff:10.0.0.1]:80", "write \"10.0.0.1:80\""),
            ("[fe80::1%2]:80", "without \"%\""),
        ] {
            let message = refusal(text);
            assert!(message.contains(wanted), "{text}: {message}");
            assert!(message.contains("; "), "{text}: says what to do: {message}");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_a_range() {
        assert_eq!(affinity_timeout("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(affinity_timeout("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(affinity_timeout("24h"), Ok(Duration::from_secs(86_400)));
        for text in
            ["10", "10 m", "m", "", "-1s", "1.5h", "10min", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(affinity_timeout(text).expect_err(text).contains("not a duration"), "{text}");
        }
        for text in ["999ms", "0s", "25h"] {
            assert!(affinity_timeout(text).expect_err(text).contains("out of range"), "{text}");
        }
    }

    #[test]
    fn a_shown_duration_reads_back_as_itself() {
        for text in ["500ms", "30s", "10m", "3h", "90s", "90m"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn names_are_dns_labels_with_at_most_one_slash() {
        for text in ["payment", "shop/payment", "a", "0-9/x"] {
            assert_eq!(service_name(text), Ok(()), "{text}");
        }
        let long = "x".repeat(64);
        for text in ["", "/", "a/", "/a", "a/b/c", "Shop/payment", "-a", "a-", "a.b", "a b", long.as_str()] {
            assert!(service_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_plain_digits_within_their_range() {
        assert_eq!(weight("1000"), Ok(1_000));
        for text in ["1001", "-1", "+1", "1.0", "1e2", "0x10", "", "99999999999999999999"] {
            assert!(weight(text).expect_err(text).contains("from 0 to 1000"), "{text}");
        }
        assert_eq!(share("1000000"), Ok(1_000_000));
        assert!(share("1000001").is_err());
    }

    #[test]
    fn the_namespace_of_segue_is_its_own() {
        let message = service_name(crate::canary::NAME).expect_err("the test connection's service");
        assert!(message.contains("kept for Segue's own services; choose another namespace"), "{message}");
        for text in ["segue", "segue-2/a", "shop/segue"] {
            assert_eq!(service_name(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_part_is_a_whole_number_of_percent_with_or_without_its_sign() {
        assert_eq!([percent("0"), percent("50%"), percent("100%")], [Ok(0), Ok(50), Ok(100)]);
        for text in ["101%", "-1%", "0.5", "50 %", "%", "", "50%%", "999"] {
            assert!(percent(text).expect_err(text).contains("from 0% to 100%"), "{text}");
        }
    }

    #[test]
    fn every_errno_has_its_own_name_and_number() {
        let mut seen = std::collections::BTreeSet::new();
        for value in RefuseWith::ALL {
            assert_eq!(refuse_with(value.name()), Ok(*value));
            assert!(seen.insert(value.errno()) && value.errno() > 0);
        }
        assert_eq!(crate::desired::PolicySpec::default().refuse_errno, RefuseWith::Ehostunreach.errno());
    }
}
