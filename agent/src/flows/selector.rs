//! Which flows somebody wants to see: selectors as people know them from `hubble observe`, read from words, and asked
//! of single connections and of totals.
//!
//! Pure. Values of one selector are alternatives, different selectors must all hold, and what a negated one
//! matches is left out. Knows no transport: words come in as pairs of a key and a value, and go out as such.

mod ends;
mod pattern;

use std::net::IpAddr;

use agent_ebpf::abi::{AppProtocol, Method, Protocol};

use ends::Ends;
pub use pattern::{Pattern, Statuses, Verdict, nearest};

use super::record::Happening;
use super::requests::RequestRow;
use super::{EdgeView, Record, Requests, split_service_name};

/// What stands before the key of a negated selector, where selectors are written as pairs.
const NEGATION: &str = "not.";

macro_rules! keys {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal, $value:literal;)+) => {
        /// What a selector looks at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key { $($(#[doc = $help])+ $variant,)+ }

        impl Key {
            /// Every key, in the order in which they are told.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name, also the option's.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What its values are, in a word.
            pub const fn value_name(self) -> &'static str {
                match self { $(Self::$variant => $value,)+ }
            }

            /// What it selects, for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+),)+ }
            }
        }
    };
}

keys! {
    /// Flows of this client: its name, alone or as NAMESPACE/NAME; * stands for anything
    FromWorkload = "from-workload", "NAME";
    /// Flows of clients that are called like this service; a node knows its clients as workloads
    FromService = "from-service", "NAME";
    /// Flows of clients in this namespace (host: outside Kubernetes)
    FromNamespace = "from-namespace", "NAME";
    /// Flows to this service
    ToService = "to-service", "NAME";
    /// Flows to the service that is called like this workload; a node knows whom it calls as services
    ToWorkload = "to-workload", "NAME";
    /// Flows to services in this namespace
    ToNamespace = "to-namespace", "NAME";
    /// Flows from or to this service
    Service = "service", "NAME";
    /// Flows from or to this workload
    Workload = "workload", "NAME";
    /// Flows whose client or service is in this namespace
    Namespace = "namespace", "NAME";
    /// Flows to backends of this version
    ToVersion = "to-version", "NAME";
    /// Connections to this address, the service's or the backend's
    ToIp = "to-ip", "ADDR";
    /// Flows to this port, the service's or the backend's
    ToPort = "to-port", "PORT";
    /// tcp, udp, or what is spoken on it: http
    Protocol = "protocol", "NAME";
    /// What became of it: established, failed, closed, reset, refused, timeout, no_backend, breaker_opened, …
    Verdict = "verdict", "NAME";
    /// Requests answered with this status: 404, 5xx, 4+, 500-504
    HttpStatus = "http-status", "STATUS";
    /// Requests of this method
    Method = "method", "METHOD";
}

impl Key {
    fn from_name(name: &str) -> Option<Self> {
        let name = if name == "status" { "http-status" } else { name };
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }
}

/// Whose totals requests are, and of which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// How packets are carried.
    Carried(Protocol),
    /// Requests, of any of these.
    Http,
    /// Requests of exactly this.
    Exactly(AppProtocol),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Name(Pattern),
    Ip(IpAddr),
    Port(u16),
    Spoken(Spoken),
    Verdict(Verdict),
    Statuses(Statuses),
    Method(Method),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: Key,
    negated: bool,
    value: Value,
}

/// A selector that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No such selector.
    #[error("there is no selector `{name}`{}", hint(near))]
    UnknownKey {
        /// What was written.
        name: String,
        /// What may be meant.
        near: Vec<String>,
    },
    /// A value that is none of those there are.
    #[error("`{value}` is no {key}{}; there are {all}", hint(near))]
    UnknownWord {
        /// The selector.
        key: &'static str,
        /// What was written.
        value: String,
        /// What may be meant.
        near: Vec<String>,
        /// What there is.
        all: String,
    },
    /// A value that cannot be read.
    #[error("`{value}` is no value of {key}: give {expected}")]
    Unreadable {
        /// The selector.
        key: &'static str,
        /// What was written.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A name that nobody has.
    #[error(
        "{key}: the agent knows no {role} `{name}`{}; to wait for one that is yet to come, write a pattern, `{name}*`",
        hint(near)
    )]
    UnknownName {
        /// The selector.
        key: &'static str,
        /// `client`, `service` or `namespace`.
        role: &'static str,
        /// What was written.
        name: String,
        /// What may be meant.
        near: Vec<String>,
    },
    /// Asked of what is remembered.
    #[error(
        "{key} selects requests, and these are counted, not remembered one by one: follow them with -f, or ask for totals, without --last, --since and --until"
    )]
    NotRemembered {
        /// The selector.
        key: &'static str,
    },
    /// Asked of totals.
    #[error("{key} selects single events: ask for these with -f, --last or --since")]
    NotOfTotals {
        /// The selector.
        key: &'static str,
    },
}

fn hint(near: &[String]) -> String {
    let quoted: Vec<_> = near.iter().map(|name| format!("`{name}`")).collect();
    match quoted.is_empty() {
        true => String::new(),
        false => format!("; did you mean {}?", quoted.join(" or ")),
    }
}

fn owned(near: Vec<&str>) -> Vec<String> {
    near.into_iter().map(str::to_owned).collect()
}

fn word<T>(
    key: Key,
    text: &str,
    read: impl Fn(&str) -> Option<T>,
    names: impl Iterator<Item = &'static str>,
) -> Result<T, SelectorError> {
    read(text).ok_or_else(|| {
        let mut all: Vec<&str> = Vec::new();
        for name in names {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        let near = owned(nearest(text, all.iter().copied()));
        SelectorError::UnknownWord { key: key.name(), value: text.to_owned(), near, all: all.join(", ") }
    })
}

fn spoken(text: &str) -> Option<Spoken> {
    let text = text.to_ascii_lowercase();
    let exactly = || AppProtocol::from_name(&text).filter(|protocol| *protocol != AppProtocol::Unknown);
    match text.as_str() {
        "http" => Some(Spoken::Http),
        name => Protocol::from_name(name).map(Spoken::Carried).or_else(|| exactly().map(Spoken::Exactly)),
    }
}

/// Whose operations are methods, and whose statuses those of RFC 9110.
const fn is_http(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http1 | AppProtocol::Http2)
}

fn spoken_names() -> impl Iterator<Item = &'static str> {
    let carried = Protocol::ALL.iter().map(|protocol| protocol.name());
    let known = AppProtocol::ALL.iter().filter(|protocol| **protocol != AppProtocol::Unknown);
    carried.chain(["http"]).chain(known.map(|protocol| protocol.name()))
}

impl Value {
    fn parse(key: Key, text: &str) -> Result<Self, SelectorError> {
        let unreadable =
            |expected| SelectorError::Unreadable { key: key.name(), value: text.to_owned(), expected };
        match key {
            Key::FromWorkload
            | Key::FromService
            | Key::FromNamespace
            | Key::ToService
            | Key::ToWorkload
            | Key::ToNamespace
            | Key::Service
            | Key::Workload
            | Key::Namespace
            | Key::ToVersion => match text.is_empty() {
                true => Err(unreadable("a name")),
                false => Ok(Self::Name(Pattern::new(text))),
            },
            Key::ToIp => text.parse().map(Self::Ip).map_err(|_| unreadable("an address without a port")),
            Key::ToPort => match text.parse() {
                Ok(port @ 1..) => Ok(Self::Port(port)),
                _ => Err(unreadable("a port, 1 to 65535")),
            },
            Key::Protocol => word(key, text, spoken, spoken_names()).map(Self::Spoken),
            Key::Verdict => word(key, text, Verdict::parse, Verdict::names()).map(Self::Verdict),
            Key::HttpStatus => Statuses::parse(text)
                .map(Self::Statuses)
                .ok_or_else(|| unreadable("a status or several: 404, 5xx, 4+, 500-504")),
            Key::Method => {
                let read =
                    |text: &str| Method::from_name(text).or_else(|| Method::from_name(&text.to_uppercase()));
                word(key, text, read, Method::ALL.iter().map(|method| method.name())).map(Self::Method)
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Name(pattern) => pattern.to_string(),
            Self::Ip(address) => address.to_string(),
            Self::Port(port) => port.to_string(),
            Self::Spoken(Spoken::Carried(protocol)) => protocol.name().to_owned(),
            Self::Spoken(Spoken::Http) => "http".to_owned(),
            Self::Spoken(Spoken::Exactly(protocol)) => protocol.name().to_owned(),
            Self::Verdict(verdict) => verdict.name().to_owned(),
            Self::Statuses(statuses) => statuses.to_string(),
            Self::Method(method) => method.name().to_owned(),
        }
    }

    /// It is the name of what happens to single requests only.
    fn names_requests(&self) -> bool {
        matches!(self, Self::Verdict(verdict) if verdict.is_only_of_requests())
    }

    /// It is about requests, not about connections.
    fn is_of_requests(&self) -> bool {
        matches!(self, Self::Statuses(_) | Self::Method(_) | Self::Spoken(Spoken::Http | Spoken::Exactly(_)))
    }
}

/// The names that flows can have.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    /// Full names of services.
    pub services: Vec<String>,
    /// Clients: namespace and name.
    pub clients: Vec<(String, String)>,
}

/// What somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

impl Selector {
    /// Adds a selector; one whose name begins with `not.` leaves out what it matches.
    ///
    /// # Errors
    /// A selector or a value that cannot be meant.
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), SelectorError> {
        let (negated, name) = match name.strip_prefix(NEGATION) {
            Some(name) => (true, name),
            None => (false, name),
        };
        let key = Key::from_name(name).ok_or_else(|| SelectorError::UnknownKey {
            name: name.to_owned(),
            near: owned(nearest(name, Key::ALL.iter().map(|key| key.name()))),
        })?;
        self.terms.push(Term { key, negated, value: Value::parse(key, value)? });
        Ok(())
    }

    /// The pairs that [`Selector::add`] makes the same of.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.terms.iter().map(|term| {
            let negation = if term.negated { NEGATION } else { "" };
            (format!("{negation}{}", term.key.name()), term.value.text())
        })
    }

    /// It is about requests, not only about connections.
    pub fn is_of_requests(&self) -> bool {
        self.terms.iter().any(|term| term.value.is_of_requests())
    }

    /// Single requests are meant: it is about what only they have, or names them.
    pub fn wants_requests(&self) -> bool {
        self.is_of_requests() || self.terms.iter().any(|term| !term.negated && term.value.names_requests())
    }

    /// Whether what is remembered can be asked for this.
    ///
    /// # Errors
    /// What they do not know.
    pub fn fits_remembered(&self) -> Result<(), SelectorError> {
        let is_wrong = |term: &&Term| term.value.is_of_requests() || term.value.names_requests();
        let wrong = self.terms.iter().find(is_wrong);
        wrong.map_or(Ok(()), |term| Err(SelectorError::NotRemembered { key: term.key.name() }))
    }

    /// Whether totals can be asked for this.
    ///
    /// # Errors
    /// What they do not know.
    pub fn fits_totals(&self) -> Result<(), SelectorError> {
        let is_wrong = |term: &&Term| term.key == Key::ToIp || term.value.names_requests();
        let wrong = self.terms.iter().find(is_wrong);
        wrong.map_or(Ok(()), |term| Err(SelectorError::NotOfTotals { key: term.key.name() }))
    }

    /// Whether every name without a `*` is one that somebody has.
    ///
    /// # Errors
    /// The first that nobody has, with those most like it.
    pub fn check_names(&self, known: &KnownNames) -> Result<(), SelectorError> {
        let full = |(namespace, name): &(String, String)| format!("{namespace}/{name}");
        let clients = || known.clients.iter().map(full);
        let services = || known.services.iter().cloned();
        let client_namespaces = || known.clients.iter().map(|(namespace, _)| namespace.clone());
        let service_namespaces =
            || known.services.iter().map(|service| split_service_name(service).0.to_owned());
        for Term { key, value, .. } in &self.terms {
            let Value::Name(pattern) = value else { continue };
            let Some(name) = pattern.exact() else { continue };
            let (role, names): (_, Vec<String>) = match key {
                Key::FromWorkload | Key::FromService => ("client", clients().collect()),
                Key::ToService | Key::ToWorkload => ("service", services().collect()),
                Key::Service | Key::Workload => ("client or service", services().chain(clients()).collect()),
                Key::FromNamespace => ("namespace", client_namespaces().collect()),
                Key::ToNamespace => ("namespace", service_namespaces().collect()),
                Key::Namespace => ("namespace", service_namespaces().chain(client_namespaces()).collect()),
                _ => continue,
            };
            let is_it = |known: &String| {
                let (namespace, bare) = split_service_name(known);
                known == name || role != "namespace" && pattern.matches_name(namespace, bare)
            };
            if !names.iter().any(is_it) {
                let near = owned(nearest(name, names.iter().map(String::as_str)));
                return Err(SelectorError::UnknownName {
                    key: key.name(),
                    role,
                    name: name.to_owned(),
                    near,
                });
            }
        }
        Ok(())
    }

    /// Whether a single event is wanted.
    pub fn matches(&self, record: &Record) -> bool {
        let request = record.request.as_deref();
        if request.is_none() && self.is_of_requests() {
            return false;
        }
        let ends = Ends {
            // Of a request that came in, the client is an address.
            client: (!record.happening.is_of_service() && record.happening != Happening::Served)
                .then_some(&*record.client),
            service: &record.service,
            version: record.version.as_deref(),
        };
        let targets = || std::iter::once(record.requested).chain(record.backend);
        self.holds(|key, value| match value {
            Value::Name(pattern) => ends.are_of(key, pattern),
            Value::Ip(address) => targets().any(|target| target.ip() == *address),
            Value::Port(port) => targets().any(|target| target.port() == *port),
            Value::Spoken(Spoken::Carried(protocol)) => record.protocol == *protocol,
            Value::Verdict(verdict) => verdict.is_of(record.happening),
            Value::Spoken(Spoken::Http) => request.is_some_and(|part| is_http(part.protocol)),
            Value::Spoken(Spoken::Exactly(protocol)) => {
                request.is_some_and(|part| part.protocol == *protocol)
            }
            Value::Statuses(statuses) => {
                request.is_some_and(|part| is_http(part.protocol) && statuses.holds(part.code))
            }
            Value::Method(method) => {
                request.is_some_and(|part| is_http(part.protocol) && *part.operation == *method.name())
            }
        })
    }

    /// The edge with the requests that are wanted of it; `None` where it is not wanted. `carried_by` is its service's
    /// protocol, where that is known.
    pub fn of_edge(&self, mut edge: EdgeView, carried_by: Option<Protocol>) -> Option<EdgeView> {
        // Everybody is in the sum of all others, and nobody by name.
        let ends = Ends {
            client: (!edge.overflow).then_some(&*edge.client),
            service: &edge.service,
            version: edge.version.as_deref(),
        };
        let is_wanted = self.holds_of(
            |value| !value.is_of_requests(),
            |key, value| match value {
                Value::Name(pattern) => ends.are_of(key, pattern),
                Value::Port(port) => edge.port == *port,
                Value::Spoken(Spoken::Carried(protocol)) => carried_by == Some(*protocol),
                Value::Verdict(verdict) => verdict.occurred_on(&edge),
                _ => false,
            },
        );
        if !is_wanted {
            return None;
        }
        if self.is_of_requests() {
            let parts = edge.requests.iter().map(|requests| requests.only(|row| self.wants(requests, row)));
            edge.requests = parts.filter(|requests| requests.count > 0).collect();
            if edge.requests.is_empty() {
                return None;
            }
        }
        Some(edge)
    }

    fn wants(&self, requests: &Requests, row: &RequestRow) -> bool {
        self.holds_of(Value::is_of_requests, |_, value| match value {
            Value::Spoken(Spoken::Http) => is_http(requests.protocol),
            Value::Spoken(Spoken::Exactly(protocol)) => requests.protocol == *protocol,
            Value::Statuses(statuses) => is_http(requests.protocol) && statuses.holds(row.status),
            Value::Method(method) => is_http(requests.protocol) && row.operation == *method as u8,
            _ => false,
        })
    }

    fn holds(&self, is_met: impl Fn(Key, &Value) -> bool) -> bool {
        self.holds_of(|_| true, is_met)
    }

    /// Of the terms that are `meant`: no negated one is met, and of each key that is named, one of its values.
    fn holds_of(&self, meant: impl Fn(&Value) -> bool, is_met: impl Fn(Key, &Value) -> bool) -> bool {
        let terms = || self.terms.iter().filter(|term| meant(&term.value));
        terms().all(|term| match term.negated {
            true => !is_met(term.key, &term.value),
            false => terms()
                .any(|other| other.key == term.key && !other.negated && is_met(other.key, &other.value)),
        })
    }
}

#[cfg(test)]
mod tests;
