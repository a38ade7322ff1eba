//! What is held of what sources would take away, as JSON.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::desired::guard::Loss;

/// Something a source would take away, which stays until the source names it again or an operator accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldView {
    /// Which source, as in `file`; null for what the agent found when it started and no source names.
    pub source: Option<String>,
    /// The service's full name; null where only its addresses are known, as above.
    pub service: Option<Arc<str>>,
    /// Its addresses.
    pub frontends: Vec<SocketAddr>,
    /// What would be taken away: `service`, `every_backend` or `backends`.
    pub loss: Loss,
    /// How many backends stay although the source does not name them; null where that is not known.
    pub backends: Option<usize>,
    /// For how long it has been held, in milliseconds.
    pub held_for_ms: u64,
}

impl HeldView {
    /// The service's name, or its first address.
    pub fn title(&self) -> String {
        match (&self.service, self.frontends.first()) {
            (Some(name), _) => name.to_string(),
            (None, Some(frontend)) => frontend.to_string(),
            (None, None) => "-".to_owned(),
        }
    }
}

/// The answer of `/v1/held`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldViews {
    /// What is held, by source, in the order of names.
    pub held: Vec<HeldView>,
}

/// An operator's word that what is held is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptRequest {
    /// Names of services, or addresses where nothing else is known; empty: everything that is held.
    pub services: Vec<String>,
}

/// What an operator's word came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// What is held no more, and gone a moment later.
    pub accepted: Vec<HeldView>,
}

/// Why nothing was accepted.
#[derive(Debug, thiserror::Error)]
#[error("nothing of `{service}` is held; `segue accept --dry-run` shows what is")]
pub struct AcceptError {
    /// What was named.
    pub service: String,
}

/// What is held in one sentence, and what to do; `None` where nothing is.
pub(super) fn problem(held: &[HeldView]) -> Option<String> {
    let first = held.first()?;
    let others = match held.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let who = match &first.source {
        Some(source) => format!("source {source} takes away"),
        None => "no source names any more".to_owned(),
    };
    Some(format!(
        "held back: {who} {}{others}, all at once; these stay as they were. `segue accept` if that is meant, else \
         restore them where they come from; `segue accept --dry-run` shows all",
        first.title()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(source: Option<&str>, service: Option<&str>) -> HeldView {
        HeldView {
            source: source.map(str::to_owned),
            service: service.map(Into::into),
            frontends: vec!["198.18.0.10:80".parse().expect("an address")],
            loss: Loss::Service,
            backends: None,
            held_for_ms: 1,
        }
    }

    #[test]
    fn what_is_held_is_one_problem_that_says_what_to_do() {
        assert_eq!(problem(&[]), None);
        let text = problem(&[held(Some("file"), Some("shop/cart")), held(Some("file"), Some("shop/x"))]);
        let text = text.expect("a problem");
        assert!(
            text.starts_with("held back: source file takes away shop/cart and 1 more, all at once"),
            "{text}"
        );
        assert!(text.contains("`segue accept`"), "{text}");
        let found = problem(&[held(None, None)]).expect("a problem");
        assert!(found.contains("no source names any more 198.18.0.10:80, all at once"), "{found}");
    }
}
