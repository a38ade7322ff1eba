//! The libraries inside whose calls the agent reads, as JSON.

use serde::{Deserialize, Serialize};

/// A library of OpenSSL that `--observe-tls` named and that has the agent's probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsLibraryView {
    /// Its path, as it was named.
    pub path: String,
    /// `read`; `replaced`: another file is there now; `gone`: none is.
    pub state: String,
}

impl TlsLibraryView {
    /// What an operator should look at; `None` where programs that start now are read as well. Probes stay with the file that
    /// was there when the agent started, so that an update of OpenSSL ends reading for everyone who starts after it.
    pub fn problem(&self) -> Option<String> {
        let path = &self.path;
        match self.state.as_str() {
            "replaced" => Some(format!(
                "{path} was replaced: what programs say inside TLS that loaded the new file is not read; restart the agent"
            )),
            "gone" => Some(format!(
                "{path} is gone: inside TLS, only programs that loaded it before are read; name another in --observe-tls"
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_what_has_the_probes_is_a_problem() {
        let problem =
            |state: &str| TlsLibraryView { path: "/lib/libssl.so.3".into(), state: state.into() }.problem();
        assert_eq!(problem("read"), None);
        assert!(problem("replaced").is_some_and(|problem| problem.ends_with("restart the agent")));
        assert!(problem("gone").is_some_and(|problem| problem.starts_with("/lib/libssl.so.3 is gone")));
    }
}
