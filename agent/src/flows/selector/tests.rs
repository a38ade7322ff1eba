//! Selectors against the specimen's records and edges, and their words against any others.

use std::sync::Arc;

use agent_ebpf::abi::{CloseReason, ConnectFailure};
use proptest::prelude::*;

use super::*;
use crate::admin::Observe;
use crate::admin::specimen::Specimen;
use crate::flows::record::Happening;

fn selector(words: &[(&str, &str)]) -> Selector {
    let mut selector = Selector::default();
    for (key, value) in words {
        selector.add(key, value).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
    }
    selector
}

fn error(key: &str, value: &str) -> String {
    Selector::default().add(key, value).expect_err("a wrong selector").to_string()
}

/// nginx of the host to `shop/payment` (v2), 10.96.0.10:443, at 10.1.0.7:8443, closed by a remote reset.
fn record() -> Record {
    (*Specimen::default().record()).clone()
}

#[test]
fn each_selector_looks_at_its_part_of_a_connection() {
    let record = record();
    let met = [
        ("from-workload", "nginx"),
        ("from-workload", "host/nginx"),
        ("from-service", "ng*"),
        ("from-namespace", "host"),
        ("to-service", "payment"),
        ("to-workload", "shop/payment"),
        ("to-namespace", "shop"),
        ("service", "nginx"),
        ("workload", "payment"),
        ("namespace", "shop"),
        ("namespace", "host"),
        ("to-version", "v2"),
        ("to-ip", "10.96.0.10"),
        ("to-ip", "10.1.0.7"),
        ("to-port", "443"),
        ("to-port", "8443"),
        ("protocol", "TCP"),
        ("verdict", "reset"),
        ("verdict", "rst_remote"),
    ];
    for (key, value) in met {
        assert!(selector(&[(key, value)]).matches(&record), "{key} {value}");
        assert!(!selector(&[(&format!("not.{key}"), value)]).matches(&record), "not {key} {value}");
    }
    let named: std::collections::BTreeSet<_> = met.iter().map(|(key, _)| *key).collect();
    let of_connections = |key: &&Key| !matches!(key, Key::HttpStatus | Key::Method);
    assert_eq!(named, Key::ALL.iter().filter(of_connections).map(|key| key.name()).collect());
    let unmet = [
        ("from-workload", "payment"),
        ("to-service", "nginx"),
        ("from-namespace", "shop"),
        ("to-version", "v1"),
        ("to-ip", "10.96.0.1"),
        ("to-port", "80"),
        ("protocol", "udp"),
        ("verdict", "established"),
    ];
    for (key, value) in unmet {
        assert!(!selector(&[(key, value)]).matches(&record), "{key} {value}");
        assert!(selector(&[(&format!("not.{key}"), value)]).matches(&record), "not {key} {value}");
    }
}

#[test]
fn values_of_one_selector_are_alternatives_and_different_ones_all_hold() {
    let record = record();
    assert!(selector(&[]).matches(&record));
    assert!(selector(&[("verdict", "refused"), ("verdict", "reset")]).matches(&record));
    assert!(!selector(&[("verdict", "reset"), ("to-service", "cart")]).matches(&record));
    assert!(selector(&[("not.verdict", "refused"), ("to-service", "payment")]).matches(&record));
    assert!(!selector(&[("not.verdict", "reset"), ("to-service", "payment")]).matches(&record));
    assert!(!selector(&[("to-service", "*"), ("not.to-service", "payment")]).matches(&record));
}

#[test]
fn what_is_about_a_service_has_no_client() {
    let step = Record { happening: Happening::RolloutPaused, ..record() };
    assert!(selector(&[("to-service", "payment")]).matches(&step));
    assert!(selector(&[("verdict", "rollout")]).matches(&step));
    assert!(!selector(&[("from-workload", "*")]).matches(&step));
}

#[test]
fn edges_are_wanted_by_their_ends_and_by_what_happened_on_them() {
    let edges = Specimen::default().edges().expect("a specimen");
    let wanted = |words: &[(&str, &str)]| {
        let selector = selector(words);
        let edges = edges.iter().cloned();
        let wanted = edges.filter_map(|edge| selector.of_edge(edge, Some(Protocol::Tcp)));
        wanted.map(|edge| edge.client.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(wanted(&[]).len(), 3);
    assert_eq!(wanted(&[("from-workload", "nginx")]), ["nginx"]);
    assert_eq!(wanted(&[("to-service", "payment"), ("verdict", "refused")]), ["nginx"]);
    assert_eq!(wanted(&[("not.from-workload", "nginx"), ("to-port", "443")]), ["batch@night \"2\""]);
    assert_eq!(wanted(&[("protocol", "udp")]), [""; 0]);
    assert_eq!(wanted(&[("protocol", "tcp")]).len(), 3);
}

#[test]
fn of_requests_only_those_wanted_are_counted() {
    let edge = Specimen::default().edges().expect("a specimen").remove(1);
    let requests = |words: &[(&str, &str)]| {
        let edge = selector(words).of_edge(edge.clone(), None)?;
        let requests = &edge.requests[0];
        Some((requests.count, requests.errors, requests.duration.count, requests.by_status.len()))
    };
    assert_eq!(requests(&[("protocol", "http")]), Some((1_227, 7, 1_227, 3)));
    assert_eq!(requests(&[("status", "5xx")]), Some((7, 7, 7, 1)));
    assert_eq!(requests(&[("http-status", "404"), ("http-status", "503")]), Some((37, 7, 37, 2)));
    assert_eq!(requests(&[("not.http-status", "2xx"), ("method", "get")]), Some((37, 7, 37, 2)));
    assert_eq!(requests(&[("method", "POST")]), None);
    assert_eq!(requests(&[("http-status", "3xx")]), None);
}

#[test]
fn single_requests_are_selected_by_what_only_they_have() {
    let specimen = Specimen::default();
    let (request, connection) = (specimen.request(), record());
    for words in [
        [("http-status", "5xx")],
        [("method", "post")],
        [("protocol", "http")],
        [("protocol", "http1")],
        [("verdict", "request")],
    ] {
        let selector = selector(&words);
        assert!(selector.matches(&request) && !selector.matches(&connection), "{words:?}");
        assert!(selector.wants_requests(), "{words:?}");
    }
    for words in [[("http-status", "404")], [("method", "GET")], [("verdict", "served")]] {
        assert!(!selector(&words).matches(&request), "{words:?}");
    }
    let others = selector(&[("not.http-status", "2xx")]);
    assert!(others.matches(&request) && !others.matches(&connection), "a connection has no status");
    assert!(!selector(&[("not.verdict", "request")]).wants_requests());
    let both = selector(&[("to-service", "payment")]);
    assert!(both.matches(&request) && both.matches(&connection) && !both.wants_requests());
}

#[test]
fn what_cannot_be_asked_of_one_kind_of_answer_is_refused_with_the_way_out() {
    let error = selector(&[("http-status", "5xx")]).fits_remembered().expect_err("no single requests");
    assert!(error.to_string().contains("follow them with -f"), "{error}");
    assert!(selector(&[("protocol", "http")]).fits_remembered().is_err());
    assert!(selector(&[("verdict", "served")]).fits_remembered().is_err());
    assert!(selector(&[("protocol", "tcp"), ("verdict", "failed")]).fits_remembered().is_ok());
    assert!(selector(&[("verdict", "request")]).fits_totals().is_err());
    let error = selector(&[("to-ip", "10.0.0.1")]).fits_totals().expect_err("no addresses");
    assert!(error.to_string().contains("--last"), "{error}");
    assert!(selector(&[("method", "GET")]).fits_totals().is_ok());
}

#[test]
fn mistyped_words_are_told_with_those_that_are_like_them() {
    assert_eq!(error("to-sevice", "x"), "there is no selector `to-sevice`; did you mean `to-service`?");
    let verdict = error("verdict", "refusd");
    assert!(
        verdict.starts_with("`refusd` is no verdict; did you mean `refused`?; there are established"),
        "{verdict}"
    );
    assert!(error("protocol", "sctp").contains("there are tcp, udp, http, http1"));
    assert!(error("method", "GETT").contains("`GET`"));
    assert!(error("http-status", "abc").contains("5xx"));
    assert!(error("to-port", "0").contains("1 to 65535"));
    assert!(error("to-ip", "10.0.0.1:80").contains("without a port"));
    assert!(error("to-service", "").contains("a name"));
}

#[test]
fn names_nobody_has_are_told_with_the_nearest_and_patterns_may_match_nothing() {
    let known = KnownNames {
        services: vec!["shop/payment".to_owned(), "dns".to_owned()],
        clients: vec![("host".to_owned(), "nginx".to_owned()), ("host".to_owned(), "/a/b".to_owned())],
    };
    let check = |key: &str, name: &str| selector(&[(key, name)]).check_names(&known);
    for (key, name) in [
        ("to-service", "payment"),
        ("to-service", "shop/payment"),
        ("to-service", "dns"),
        ("from-workload", "host/nginx"),
        ("from-workload", "/a/b"),
        ("from-service", "nginx"),
        ("service", "nginx"),
        ("namespace", "shop"),
        ("namespace", "host"),
        ("to-service", "nobody*"),
        ("to-version", "v9"),
    ] {
        assert_eq!(check(key, name), Ok(()), "{key} {name}");
    }
    let error = check("to-service", "paymnt").expect_err("nobody").to_string();
    assert!(error.contains("no service `paymnt`; did you mean `shop/payment`?"), "{error}");
    assert!(error.contains("`paymnt*`"), "{error}");
    assert!(check("not.from-workload", "ngin").is_err());
    assert!(check("from-namespace", "shop").is_err());
    assert!(check("to-namespace", "host").is_err());
}

fn any_pair() -> impl Strategy<Value = (String, String)> {
    let keys: Vec<String> = Key::ALL
        .iter()
        .flat_map(|key| [key.name().to_owned(), format!("not.{}", key.name())])
        .chain(["status".to_owned(), "not.".to_owned(), "verdicts".to_owned()])
        .collect();
    let values = prop_oneof![
        "\\PC{0,12}",
        "[a-z*/]{1,8}",
        "[1-5](xx|\\+|[0-9]{2})(-[1-5][0-9]{2})?",
        proptest::sample::select(Verdict::names().collect::<Vec<_>>()).prop_map(str::to_owned),
        proptest::sample::select(spoken_names().collect::<Vec<_>>()).prop_map(str::to_owned),
        any::<IpAddr>().prop_map(|address| address.to_string()),
    ];
    (proptest::sample::select(keys), values)
}

proptest! {
    #[test]
    fn whatever_is_written_is_refused_or_comes_back_equal_from_its_pairs(
        pairs in proptest::collection::vec(any_pair(), 0..8)
    ) {
        let mut read = Selector::default();
        for (key, value) in &pairs {
            // Refused words leave what was read before as it is.
            let before = read.clone();
            if read.add(key, value).is_err() {
                prop_assert_eq!(&read, &before);
            }
        }
        let mut again = Selector::default();
        for (key, value) in read.pairs() {
            prop_assert_eq!(again.add(&key, &value), Ok(()));
        }
        prop_assert_eq!(read, again);
    }

    #[test]
    fn a_selector_and_its_negation_never_both_want_a_record(pair in any_pair(), kind in 0..3_usize) {
        let happenings =
            [Happening::Opened, Happening::Failed(ConnectFailure::Refused), Happening::Closed(CloseReason::Fin)];
        let record = Record { happening: happenings[kind], client: Arc::clone(&record().client), ..record() };
        let (key, value) = (pair.0.trim_start_matches("not."), &pair.1);
        let (mut plain, mut negated) = (Selector::default(), Selector::default());
        if plain.add(key, value).is_ok() {
            prop_assert_eq!(negated.add(&format!("not.{key}"), value), Ok(()));
            // What only requests have, no connection has, nor the opposite.
            let expected = !plain.is_of_requests() && !plain.matches(&record);
            prop_assert_eq!(negated.matches(&record), expected);
        }
    }
}
