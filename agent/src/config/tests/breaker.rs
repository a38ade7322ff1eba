//! The breaker and the connect timeout of a service.

use std::time::Duration;

use agent_ebpf::abi::breaker::period_ticks;
use agent_ebpf::abi::{BreakerMode, BreakerPolicy};
use agent_ebpf::decide::breaker::{Signal, SignalSet};

use crate::config::breaker::{duration_of, window_of};
use crate::config::reference;

use super::{BACKENDS, FRONTENDS, NAME, parsed, refused, service, warned};

fn file(policy: &str) -> String {
    service(&[NAME, FRONTENDS, BACKENDS, &format!("policy: {{ {policy} }}")])
}

/// The breaker of a service with this policy.
fn breaker(policy: &str) -> Option<BreakerPolicy> {
    parsed(&file(policy)).unwrap_or_else(|error| panic!("{policy}\n{error}")).services[0].policy.breaker
}

#[test]
fn without_a_breaker_there_is_none_and_an_empty_one_has_the_defaults() {
    assert_eq!(breaker(""), None);
    assert_eq!(breaker("breaker: ~"), None);
    assert_eq!(breaker("breaker: {}"), Some(BreakerPolicy::DEFAULT));
}

#[test]
fn a_breaker_with_everything_becomes_what_it_says() {
    let read = breaker(
        "breaker: { mode: observe, consecutive_failures: 7, failure_ratio: 30%, minimum_samples: 40, window: 20s, \
         slow_ratio: 80, slow_connect: 300ms, slow_answer: 2s, answer_timeout: 4s, open: 2s, open_max: 1m, jitter: 5%, probes: 8, \
         successes_to_close: 4, half_open: 15s, slow_start: 0s, slow_start_minimum: 25%, decay: 1m, \
         max_ejection: 30%, panic: 0%, negative_affinity: 1s, signals: [refused, reset, retransmission_timeout] }",
    );
    let signals =
        SignalSet::NONE.with(Signal::Refused).with(Signal::Reset).with(Signal::RetransmissionTimeout);
    let expected = BreakerPolicy {
        mode: BreakerMode::Observe as u8,
        consecutive_failures: 7,
        failure_percent: 30,
        slow_percent: 80,
        signals: signals.0,
        minimum_samples: 40,
        slow_connect_us: 300_000,
        slow_answer_us: 2_000_000,
        answer_timeout_us: 4_000_000,
        bucket_ticks: period_ticks(2_500),
        open_base_ticks: period_ticks(2_000),
        open_cap_ticks: period_ticks(60_000),
        half_open_ticks: period_ticks(15_000),
        slow_start_ticks: 0,
        decay_ticks: period_ticks(60_000),
        jitter_percent: 5,
        probes: 8,
        successes_to_close: 4,
        slow_start_min_percent: 25,
        ejection_cap_percent: 30,
        panic_percent: 0,
        avoidance_ticks: u16::try_from(period_ticks(1_000)).expect("a second"),
    };
    assert_eq!(read, Some(expected));
}

#[test]
fn every_mode_has_its_name() {
    for mode in BreakerMode::ALL {
        let read = breaker(&format!("breaker: {{ mode: {} }}", mode.name()));
        assert_eq!(read.map(|policy| policy.mode()), Some(*mode));
    }
}

#[test]
fn a_value_that_is_not_written_follows_the_one_that_bounds_it() {
    let read = |text: &str| breaker(&format!("breaker: {{ {text} }}")).expect("a breaker");
    let one = read("probes: 1");
    assert_eq!((one.probes, one.successes_to_close), (1, 1));
    let five = read("successes_to_close: 5");
    assert_eq!((five.probes, five.successes_to_close), (5, 5));
    let long = read("open: 10m");
    assert_eq!((long.open_base_ticks, long.open_cap_ticks), (period_ticks(600_000), period_ticks(600_000)));
    let short = read("open_max: 1s");
    assert_eq!((short.open_base_ticks, short.open_cap_ticks), (period_ticks(1_000), period_ticks(1_000)));
}

#[test]
fn each_wrong_value_is_one_line_that_says_where_and_what_to_do() {
    for (text, expected) in [
        (
            "mode: on",
            "mode: \"on\" is not known; write one of off, observe, enforce, forced_open, forced_closed",
        ),
        ("consecutive_failures: 256", "consecutive_failures: is \"256\"; write a whole number from 0 to 255"),
        (
            "failure_ratio: 101%",
            "failure_ratio: is \"101%\"; write a whole number of percent from 0% to 100%, as in 50%",
        ),
        ("minimum_samples: 0", "minimum_samples: is \"0\"; write a whole number from 1 to 100000"),
        (
            "window: 500ms",
            "window: is \"500ms\", which is out of range; write a whole number with ms, s, m or h, from 1s to 1h, as in 5s",
        ),
        ("probes: 32", "probes: is \"32\"; write a whole number from 1 to 31"),
        ("signals: refused", "signals: is \"refused\"; write a list of signals, as in [refused, timeout]"),
        (
            "signals: [slow_connect]",
            "signals[0]: \"slow_connect\" is not a failure; give `slow_ratio` a value, what is slow counts there",
        ),
        (
            "signals: [rst]",
            "signals[0]: \"rst\" is not known; write one of refused, timeout, unreachable, reset_early, reset, \
             retransmission_timeout, http_5xx, grpc_status, no_answer",
        ),
        ("signals: [reset, reset]", "signals[1]: is written twice; keep one of the two"),
        ("opne: 5s", "opne: is not a known field; did you mean `open`?"),
        ("open: 5s, open_max: 1s", "open_max: is 1s, less than `open`, 5s; raise it, or lower `open`"),
        (
            "probes: 1, successes_to_close: 2",
            "successes_to_close: is 2, more than `probes`, 1; lower it, or raise `probes`",
        ),
    ] {
        let line = refused(&file(&format!("breaker: {{ {text} }}")));
        let (place, said) = line.split_once(": ").expect("a place and a field");
        assert!(place.starts_with("f:5:"), "{line}");
        assert_eq!(said, format!("services[0].policy.breaker.{expected}"));
    }
    assert_eq!(
        refused(&file("breaker: on")),
        "f:5:22: services[0].policy.breaker: is \"on\"; write a mapping, as in { consecutive_failures: 5 }, or {} for \
         the defaults"
    );
}

#[test]
fn a_connect_timeout_has_a_range() {
    let read = |text: &str| parsed(&file(text)).map(|config| config.services[0].policy.connect_timeout);
    assert_eq!(read("connect_timeout: 2s").expect("a good file"), Some(Duration::from_secs(2)));
    for text in ["99ms", "121s"] {
        assert_eq!(
            refused(&file(&format!("connect_timeout: {text}"))),
            format!(
                "f:5:30: services[0].policy.connect_timeout: is \"{text}\", which is out of range; write a whole \
                 number with ms, s, m or h, from 100ms to 2m, as in 2s"
            )
        );
    }
}

#[test]
fn a_breaker_that_can_do_nothing_is_a_warning() {
    for text in ["consecutive_failures: 0, failure_ratio: 0%", "signals: []"] {
        let line = warned(&file(&format!("breaker: {{ {text} }}")));
        assert!(line.starts_with("f:5:22: services[0].policy.breaker: never takes a backend out"), "{line}");
        for useful in ["slow_ratio: 10%", "mode: forced_open"] {
            assert_eq!(warned(&file(&format!("breaker: {{ {text}, {useful} }}"))), "");
        }
    }
    let udp = |policy: &str| service(&[NAME, FRONTENDS, BACKENDS, "protocol: udp", policy]);
    assert_eq!(
        warned(&udp("policy: { connect_timeout: 1s, breaker: {} }")),
        "f:6:30: services[0].policy.connect_timeout: does nothing for udp, which has no handshake; remove it\n\
         f:6:43: services[0].policy.breaker: does nothing for udp by itself, what becomes of datagrams is not \
         seen; remove it"
    );
    assert_eq!(warned(&udp("policy: { breaker: { mode: forced_open } }")), "");
}

#[test]
fn requests_are_read_unless_it_says_otherwise_and_a_breaker_of_answers_wants_them() {
    let reads = |policy: &str| parsed(&file(policy)).expect("a good file").services[0].policy.reads_requests;
    assert!(reads("") && reads("requests: auto") && !reads("requests: off"));
    assert_eq!(
        refused(&file("requests: on")),
        "f:5:23: services[0].policy.requests: \"on\" is unknown; known are auto, off"
    );
    let of_answers = "breaker: { signals: [refused, http_5xx] }";
    assert_eq!(warned(&file(&format!("requests: auto, {of_answers}"))), "");
    assert_eq!(warned(&file("requests: off, breaker: {}")), "");
    let line = warned(&file(&format!("requests: off, {of_answers}")));
    assert!(line.starts_with("f:5:23: services[0].policy.requests: keeps the breaker from seeing"), "{line}");
}

#[test]
fn the_reference_names_the_defaults_as_people_write_them() {
    assert_eq!(duration_of(BreakerPolicy::DEFAULT.open_base_ticks), Duration::from_secs(5));
    assert_eq!(duration_of(BreakerPolicy::DEFAULT.open_cap_ticks), Duration::from_secs(300));
    assert_eq!(window_of(BreakerPolicy::DEFAULT.bucket_ticks), Duration::from_secs(10));
    assert!(reference().contains("| `window` | 1s to 1h, default 10s |"), "{}", reference());
}
