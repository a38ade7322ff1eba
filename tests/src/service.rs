//! Configuration files as tests write them: a service, its backends, its policy. Knows the YAML format only.

use std::fmt::Write;

use crate::server::Server;

/// One service of a configuration file.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    protocol: &'static str,
    frontends: Vec<String>,
    policy: Vec<String>,
    backends: Vec<String>,
}

impl Service {
    /// A TCP service without frontends and backends.
    pub fn tcp(name: &str) -> Self {
        Self::new(name, "tcp")
    }

    /// A UDP service without frontends and backends.
    pub fn udp(name: &str) -> Self {
        Self::new(name, "udp")
    }

    fn new(name: &str, protocol: &'static str) -> Self {
        let (frontends, policy, backends) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.to_owned(), protocol, frontends, policy, backends }
    }

    /// Adds a frontend.
    #[must_use]
    pub fn at(mut self, frontend: &str) -> Self {
        self.frontends.push(format!("\"{frontend}\""));
        self
    }

    /// Adds a field of the policy, as in `algorithm: maglev`.
    #[must_use]
    pub fn policy(mut self, field: &str) -> Self {
        self.policy.push(field.to_owned());
        self
    }

    /// Adds a backend.
    #[must_use]
    pub fn to(self, server: &Server) -> Self {
        self.to_address(&server.address().to_string())
    }

    /// Adds a backend with more fields, as in `weight: 3, version: v1`.
    #[must_use]
    pub fn to_with(self, server: &Server, fields: &str) -> Self {
        self.to_address_with(&server.address().to_string(), fields)
    }

    /// Adds a backend where perhaps nothing listens.
    #[must_use]
    pub fn to_address(mut self, address: &str) -> Self {
        self.backends.push(format!("{{ address: \"{address}\" }}"));
        self
    }

    /// Adds a backend where perhaps nothing listens, with more fields.
    #[must_use]
    pub fn to_address_with(mut self, address: &str, fields: &str) -> Self {
        self.backends.push(format!("{{ address: \"{address}\", {fields} }}"));
        self
    }

    fn render(&self, yaml: &mut String) {
        let Self { name, protocol, frontends, policy, backends } = self;
        let frontends = frontends.join(", ");
        write!(yaml, "  - name: {name}\n    protocol: {protocol}\n    frontends: [{frontends}]\n")
            .expect("writing to a String");
        if !policy.is_empty() {
            writeln!(yaml, "    policy: {{ {} }}", policy.join(", ")).expect("writing to a String");
        }
        if backends.is_empty() {
            yaml.push_str("    backends: []\n");
            return;
        }
        yaml.push_str("    backends:\n");
        for backend in backends {
            writeln!(yaml, "      - {backend}").expect("writing to a String");
        }
    }
}

/// The text of a configuration file with these services.
pub fn config(services: &[Service]) -> String {
    if services.is_empty() {
        return "services: []\n".to_owned();
    }
    let mut yaml = String::from("services:\n");
    for service in services {
        service.render(&mut yaml);
    }
    yaml
}
